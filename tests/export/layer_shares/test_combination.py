"""Measures put together: shares that are fair, whatever was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.export.layer_shares.combination import at_least, head_shares
from ov_kvcrush.export.layer_shares.count import highest_scores

HEADS = [2, 1, 3]

measured = st.floats(0, 1e6, allow_subnormal=False)
by_head = st.tuples(*(st.lists(measured, min_size=n, max_size=n) for n in HEADS))
by_layer = st.tuples(*(st.lists(measured, min_size=1, max_size=1) for _ in HEADS))
measures = st.lists(st.tuples(by_head | by_layer, st.floats(0.05, 0.9)), min_size=1, max_size=4)


def arrays(measure: tuple[list[float], ...]) -> list[np.ndarray]:
    return [np.array(layer, np.float64) for layer in measure]


@given(measures)
def test_shares_are_1_on_average_and_none_is_below_the_mean_of_the_least(
    given_measures: list[tuple[tuple[list[float], ...], float]],
) -> None:
    shares = head_shares([(arrays(m), least) for m, least in given_measures], HEADS)
    assert [len(layer) for layer in shares] == HEADS
    together = np.concatenate(shares)
    assert together.mean() == pytest.approx(1)
    assert together.min() >= np.mean([least for _, least in given_measures]) - 1e-9


@given(by_head, st.floats(0.1, 1000))
def test_the_scale_of_a_measure_does_not_count(
    measure: tuple[list[float], ...], factor: float
) -> None:
    one = head_shares([(arrays(measure), 0.2)], HEADS)
    other = head_shares([([factor * layer for layer in arrays(measure)], 0.2)], HEADS)
    np.testing.assert_allclose(np.concatenate(one), np.concatenate(other), rtol=1e-6, atol=1e-9)


def test_a_measure_of_whole_layers_is_shared_by_its_heads() -> None:
    shares = head_shares([(arrays(([6.0], [0.0], [3.0])), 0.0)], HEADS)
    np.testing.assert_allclose(np.concatenate(shares), np.array([3, 3, 0, 1, 1, 1]) * 6 / 9)


def test_nothing_measured_is_the_same_for_all() -> None:
    shares = head_shares([(arrays(([0.0], [0.0], [0.0])), 0.2)], HEADS)
    np.testing.assert_allclose(np.concatenate(shares), 1)


def test_what_is_below_a_part_of_the_mean_is_raised_to_it() -> None:
    raised = at_least(arrays(([12.0, 0.0], [0.0], [0.0, 0.0, 0.0])), 0.1, HEADS)
    np.testing.assert_allclose(np.concatenate(raised), [12, 0.2, 0.2, 0.2, 0.2, 0.2])


def test_the_highest_eighth_of_all_scores_is_counted() -> None:
    scores = [np.zeros((2, 8), np.float32), np.zeros((1, 8), np.float32)]
    scores[0][1, 3] = 2.0
    scores[1][0, :2] = 1.0
    assert [layer.tolist() for layer in highest_scores(scores)] == [[0, 1], [2]]
