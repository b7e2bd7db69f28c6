"""Means of made-up scores, checked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from ov_kvcrush.evaluation.suites.sample import Sample
from tests.support.suite_results import (
    FULL,
    RANK,
    SNAPKV,
    make_sample,
    single_results,
    turns_results,
)


@pytest.fixture
def results() -> SuiteResults:
    return turns_results()


def test_a_sample_counts_as_much_as_any_other_however_many_turns_it_has(
    results: SuiteResults,
) -> None:
    # Of rank: a has 1 + 0.5 + 0, b has 1 + 0 + 1, and of c only the second turn counts.
    assert results.scores("known", RANK) == pytest.approx([1.5 / 3, 2 / 3, 1.0])
    assert results.mean("known", RANK) == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert results.scores("known", RANK, "first") == [1.0, 1.0, None]
    assert results.scores("known", RANK, "later") == [0.25, 0.5, 1.0]


def test_shares_are_of_the_full_cache_over_the_same_samples(results: SuiteResults) -> None:
    assert results.of_full("known", FULL) == 1.0
    # Later turns: 0.25 + 0.5 + 1 of 1 + 0.5 + 1.
    assert results.of_full("known", RANK, "later") == pytest.approx(1.75 / 2.5)
    # First turns: of a and b alone.
    assert results.of_full("known", SNAPKV, "first") == pytest.approx(1 / 2)


def test_a_sample_that_one_cache_does_not_have_counts_for_neither(results: SuiteResults) -> None:
    first, *others = results.results
    without = tuple(cell for cell in first.cells if cell.configuration != RANK.name)
    partly = replace(results, results=(replace(first, cells=without), *others))
    assert partly.num_scored("known", RANK) == 2
    # b and c: 2/3 + 1 of as much.
    assert partly.of_full("known", RANK) == pytest.approx(1.0)


def test_what_is_nothing_has_no_share() -> None:
    results = single_results(1)
    (result,) = results.results
    wrong = [
        replace(c, answers=tuple(replace(a, score=0.0) for a in c.answers)) for c in result.cells
    ]
    nothing = replace(results, results=(replace(result, cells=tuple(wrong)),))
    assert nothing.mean("known", RANK) == 0.0
    assert nothing.of_full("known", RANK) is None


def test_turns_are_told_apart_where_samples_have_several(results: SuiteResults) -> None:
    assert results.turns == ("first", "later", "all")
    assert single_results().turns == ("all",)
    # A turn that does not count is not one of several.
    assert results.of_task("summary").turns == ("all",)


def test_settings_and_caches_are_those_that_were_measured(results: SuiteResults) -> None:
    assert results.settings == ("known", "unknown")
    assert results.measured("known") == [FULL, RANK, SNAPKV]
    assert results.measured("unknown") == [FULL, RANK]
    assert results.num_questions == 3 + 3 + 1
    assert results.tasks == ("needles", "summary")


def test_sizes_are_means_of_what_is_known(results: SuiteResults) -> None:
    assert results.kept("known", RANK) == 1000
    assert results.kv_bytes("known", FULL) == 20_000_000
    assert results.kv_bytes("unknown", SNAPKV) is None
    result = results.results[0]
    unknown_size = replace(result, cells=tuple(replace(c, kv_bytes=0) for c in result.cells))
    partly = replace(results, results=(unknown_size, *results.results[1:]))
    assert partly.kv_bytes("known", RANK) == 5_000_000


def test_samples_that_were_not_finished_are_left_out() -> None:
    results = single_results(2)
    more: list[Sample] = [make_sample("not asked", "qa"), *results.samples]
    again = SuiteResults.of(results.configurations, more, reversed(results.results))
    assert [sample.id for sample in again.samples] == ["sample 1", "sample 0"]
