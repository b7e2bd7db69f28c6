"""Paired bootstrap: what it must find, and what it must not."""

from __future__ import annotations

import numpy as np
import pytest

from ov_kvcrush.evaluation.stats import (
    Difference,
    bootstrap_mean,
    paired_difference,
    paired_mean_difference,
)


def test_no_difference_has_no_width() -> None:
    difference = paired_difference([1, 0, 2], [1, 0, 2], [2, 2, 2])
    assert difference is not None
    assert (difference.points, difference.low, difference.high) == (0, 0, 0)


def test_the_same_gain_everywhere_is_certain() -> None:
    difference = paired_difference([2, 2, 2], [1, 1, 1], [2, 2, 2])
    assert difference is not None
    assert (difference.points, difference.low, difference.high) == (50, 50, 50)


def test_the_interval_is_that_of_the_normal_distribution_where_there_are_many() -> None:
    draw = np.random.default_rng(1)
    ours, theirs = draw.random(2000) < 0.8, draw.random(2000) < 0.7
    difference = paired_difference(ours.astype(int), theirs.astype(int), np.ones(2000, int))
    assert difference is not None
    gained = 100 * (ours.astype(float) - theirs)
    half = 1.96 * gained.std() / np.sqrt(2000)
    assert np.isclose(difference.points, gained.mean())
    assert np.allclose(
        [difference.low, difference.high], [gained.mean() - half, gained.mean() + half], atol=0.3
    )


def test_conversations_that_ask_nothing_do_not_count() -> None:
    with_none = paired_difference([1, 0, 0], [0, 0, 0], [1, 1, 0])
    assert with_none == paired_difference([1, 0], [0, 0], [1, 1])
    assert paired_difference([0], [0], [0]) is None


def test_the_same_figures_give_the_same_interval() -> None:
    figures = ([1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1])
    assert paired_difference(*figures) == paired_difference(*figures)


def test_a_difference_of_means_is_of_the_texts_that_both_have() -> None:
    difference = paired_mean_difference([0.5, None, 0.25, 1.0], [0.25, 0.5, None, 0.75])
    assert difference is not None
    assert (difference.points, difference.low, difference.high) == (0.25, 0.25, 0.25)
    assert paired_mean_difference([None], [1.0]) is None


def test_its_interval_is_that_of_the_normal_distribution_where_there_are_many() -> None:
    draw = np.random.default_rng(2)
    ours, theirs = draw.normal(1, 1, 2000), draw.normal(0.5, 1, 2000)
    difference = paired_mean_difference(ours.tolist(), theirs.tolist())
    assert difference is not None
    half = 1.96 * (ours - theirs).std() / np.sqrt(2000)
    assert np.allclose(
        [difference.low, difference.high],
        [(ours - theirs).mean() - half, (ours - theirs).mean() + half],
        atol=0.01,
    )


def test_a_mean_has_the_interval_of_its_difference_to_nothing() -> None:
    values = [0.0, 0.5, 1.0, 1.0]
    estimate = bootstrap_mean(values)
    difference = paired_mean_difference(values, [0.0] * 4)
    assert estimate is not None
    assert difference is not None
    assert estimate.mean == 0.625
    assert (estimate.low, estimate.high) == (difference.low, difference.high)
    assert 0 <= estimate.low < 0.625 < estimate.high <= 1
    assert bootstrap_mean([]) is None


def test_many_values_have_the_interval_that_few_blocks_of_draws_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(3).random(500).tolist()
    at_once = bootstrap_mean(values)
    monkeypatch.setattr("ov_kvcrush.evaluation.stats._DRAWS_AT_ONCE", 501)
    assert bootstrap_mean(values) == at_once


def test_a_difference_is_inside_its_interval_where_that_holds_0() -> None:
    assert Difference(1.0, -0.5, 2.5).is_inside_interval
    assert Difference(1.0, 0.0, 2.5).is_inside_interval
    assert not Difference(1.0, 0.1, 2.5).is_inside_interval
    assert not Difference(-1.0, -2.5, -0.1).is_inside_interval
