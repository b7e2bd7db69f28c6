"""The regression against NumPy's least squares."""

from __future__ import annotations

import numpy as np
import pytest

from ov_kvcrush.export.gate import student as module
from ov_kvcrush.export.gate.student import LEAST_LOG_SCORE, Student


def tokens(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    states = rng.normal(1.0, 2.0, (count, 12)).astype(np.float32)
    scores = states @ rng.normal(size=(12, 3)) / 9 - 4 + rng.normal(size=(count, 3))
    return states, scores.astype(np.float32)


@pytest.mark.parametrize("exact", [True, False])
def test_the_solution_is_ridge_regression_around_the_means(exact: bool) -> None:
    parts = [tokens(seed) for seed in range(3)]
    student = Student(12, 3, exact)
    for states, scores in parts:
        student.learn(states, scores)
    weights, biases = student.solve()
    states = np.concatenate([part[0] for part in parts]).astype(np.float64)
    scores = np.concatenate([part[1] for part in parts]).astype(np.float64)
    x, y = states - states.mean(axis=0), scores - scores.mean(axis=0)
    ridge = module.RIDGE * (states**2).sum() / 12
    rows, targets = np.vstack([x, np.sqrt(ridge) * np.eye(12)]), np.vstack([y, np.zeros((12, 3))])
    wanted = np.linalg.lstsq(rows, targets, rcond=None)[0]
    np.testing.assert_allclose(weights, wanted, atol=1e-4)
    np.testing.assert_allclose(
        biases, scores.mean(axis=0) - states.mean(axis=0) @ wanted, atol=1e-3
    )


def test_scores_of_nothing_are_floored() -> None:
    states, scores = tokens(0)
    low, floored = Student(12, 3), Student(12, 3)
    low.learn(states, np.full_like(scores, -1e30))
    floored.learn(states, np.full_like(scores, LEAST_LOG_SCORE))
    for a, b in zip(low.solve(), floored.solve(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(low.solve()[1], LEAST_LOG_SCORE, rtol=1e-5)


def test_states_that_never_change_have_no_say() -> None:
    _, scores = tokens(0)
    student = Student(12, 3)
    student.learn(np.ones((300, 12), np.float32), scores)
    weights, biases = student.solve()
    np.testing.assert_allclose(weights, 0, atol=1e-4)
    np.testing.assert_allclose(biases, scores.mean(axis=0), atol=1e-3)
