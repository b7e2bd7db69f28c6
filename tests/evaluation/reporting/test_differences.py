"""Who is compared with whom, and differences checked by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.configurations import Configuration, make_configurations
from ov_kvcrush.evaluation.reporting.differences import comparisons
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from tests.support.suite_results import (
    FULL,
    RANK,
    SNAPKV,
    make_result,
    make_sample,
    turns_results,
)


def test_a_difference_is_the_mean_of_the_samples_own_in_points() -> None:
    (rank,) = comparisons(turns_results(), "snapkv")
    assert (rank.setting, rank.ours, rank.theirs) == ("known", RANK, SNAPKV)
    # All turns: a 0.5 - 1/3, b 2/3 - 1/3, c 1 - 0.
    difference = rank.by_turns["all"]
    assert difference is not None
    assert difference.points == pytest.approx(100 * (1 / 6 + 1 / 3 + 1) / 3)
    assert (difference.low, difference.high) == pytest.approx((100 / 6, 100.0))
    assert not difference.is_inside_interval
    # First turns, of a and b alone: 0 and 1.
    first = rank.by_turns["first"]
    assert first is not None
    assert (first.points, first.low, first.high) == pytest.approx((50, 0, 100))
    assert first.is_inside_interval


def test_a_policy_is_compared_with_at_the_same_budget() -> None:
    caches = make_configurations(["rank", "snapkv"], [Fraction(1, 4), Fraction(1, 8)], [])
    assert pairs(caches, "snapkv") == [
        ("rank 1/4", "snapkv 1/4"),
        ("rank 1/8", "snapkv 1/8"),
    ]
    assert pairs(caches, "full")[0] == ("rank 1/4", "full cache")
    assert len(pairs(caches, "full")) == 4


def test_a_configuration_is_compared_with_by_all() -> None:
    caches = make_configurations(["rank", "snapkv"], [Fraction(1, 4), Fraction(1, 8)], [])
    assert pairs(caches, "snapkv 1/8") == [
        ("full cache", "snapkv 1/8"),
        ("rank 1/4", "snapkv 1/8"),
        ("snapkv 1/4", "snapkv 1/8"),
        ("rank 1/8", "snapkv 1/8"),
    ]


def test_of_two_engines_full_caches_the_first_is_compared_with() -> None:
    peer = Configuration("full", "genai")
    assert comparisons(results_of([FULL, peer, RANK]), "full")[-1].theirs is FULL


def test_what_was_not_measured_is_refused_with_what_was() -> None:
    with pytest.raises(ConfigError, match="'snapvk' was not measured") as caught:
        comparisons(turns_results(), "snapvk")
    assert caught.value.hint == "Did you mean 'snapkv'?"


def results_of(caches: list[Configuration]) -> SuiteResults:
    sample = make_sample("a", "qa")
    result = make_result(sample, {("known", cache): (1,) for cache in caches})
    return SuiteResults.of(caches, [sample], [result])


def pairs(caches: list[Configuration], compare: str) -> list[tuple[str, str]]:
    return [(c.ours.name, c.theirs.name) for c in comparisons(results_of(caches), compare)]
