"""What the teacher found, learned by ridge regression from the state that a token's key is made of.

In closed form, from sums over tokens: no text has to be in memory twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

LEAST_LOG_SCORE = float(np.log(1e-8))
"""Scores below are as good as none; their logarithms would count the most."""

RIDGE = 0.1
"""Of the mean diagonal. A hundredth of it does as well with many texts, and worse with few."""


class Student:
    """Of one layer: all KV heads at once.

    Args:
        hidden_size: of a state.
        num_heads: H.
        exact: sums in f64; f32 takes half of the memory.
    """

    def __init__(self, hidden_size: int, num_heads: int, exact: bool = True) -> None:
        kind = np.float64 if exact else np.float32
        self._squares = np.zeros((hidden_size, hidden_size), kind)
        self._products = np.zeros((hidden_size, num_heads))
        self._states = np.zeros(hidden_size)
        self._scores = np.zeros(num_heads)
        self._count = 0

    def learn(self, states: Floats, scores: Floats) -> None:
        """Take in tokens: ``states [n, hidden]`` and their logarithmic ``scores [n, H]``."""
        targets = floored(scores)
        self._squares += states.T @ states
        self._products += states.T @ targets
        self._states += states.sum(axis=0, dtype=np.float64)
        self._scores += targets.sum(axis=0, dtype=np.float64)
        self._count += len(states)

    def solve(self) -> tuple[Floats, Floats]:
        """Weights ``[hidden, H]`` and biases ``[H]``: ``states @ weights + biases`` are scores."""
        mean, offset = self._states / self._count, self._scores / self._count
        # Around the means, the constant is free of the ridge.
        ridge = RIDGE * np.trace(self._squares) / len(self._squares)
        squares = self._squares - self._count * np.outer(mean, mean)
        products = self._products - self._count * np.outer(mean, offset)
        squares[np.diag_indices_from(squares)] += ridge
        weights = np.linalg.solve(squares, products)
        return weights.astype(np.float32), (offset - mean @ weights).astype(np.float32)


def floored(scores: Floats) -> Floats:
    """Logarithmic ``scores``, none below the least that counts."""
    least: Floats = np.maximum(scores, np.float32(LEAST_LOG_SCORE))
    return least
