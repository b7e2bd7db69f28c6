"""Paired bootstrap: what it must find, and what it must not."""

from __future__ import annotations

import numpy as np

from ov_kvcrush.evaluation.stats import paired_difference, paired_mean_difference


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
