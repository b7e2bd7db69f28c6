"""How far next-token distributions are from others: NumPy alone, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Elements in double precision at a time: the vocabulary of some rows.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Divergence:
    """Of some distributions from a reference's, row by row.

    Attributes:
        kl: Kullback-Leibler divergence of these from the reference, in nats.
        alike: whether both choose the same token.
    """

    kl: Doubles
    alike: NDArray[np.bool_]


class Reference:
    """Next-token distributions that others are compared with.

    Args:
        logits: ``[rows, vocab]``; copied.
    """

    def __init__(self, logits: Logits) -> None:
        self._logits = np.array(logits, np.float32)
        self._totals = log_totals(self._logits)
        self._choices = self._logits.argmax(axis=1)

    def compare(self, logits: Logits) -> Divergence:
        """Those of ``logits``, which has the reference's shape; not changed."""
        kl = np.zeros(len(logits))
        for rows in _blocks(logits.shape):
            ours = self._logits[rows].astype(np.float64)
            theirs = logits[rows].astype(np.float64)
            # Differences first: what both have in common must not drown them.
            theirs -= ours
            ours -= self._totals[rows, None]
            np.exp(ours, out=ours)
            kl[rows] = -np.einsum("rv,rv->r", ours, theirs)
        kl += log_totals(logits) - self._totals
        # Rounding may leave a little less than nothing.
        return Divergence(np.maximum(kl, 0.0), logits.argmax(axis=1) == self._choices)


def log_likelihoods(logits: Logits, tokens: NDArray[np.int64]) -> Doubles:
    """Log probability, in nats, of one of ``tokens`` in each row of ``logits [rows, vocab]``."""
    told = logits[np.arange(len(tokens)), tokens].astype(np.float64)
    return np.asarray(told - log_totals(logits))


def log_totals(logits: Logits) -> Doubles:
    """Logarithm of the sum of exponentials of each row of ``logits [rows, vocab]``."""
    totals = np.zeros(len(logits))
    for rows in _blocks(logits.shape):
        block = logits[rows].astype(np.float64)
        largest = block.max(axis=1, keepdims=True)
        block -= largest
        np.exp(block, out=block)
        totals[rows] = np.log(block.sum(axis=1)) + largest[:, 0]
    return totals


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    rows, size = shape
    step = max(1, _BLOCK // max(1, size))
    for begin in range(0, rows, step):
        yield slice(begin, begin + step)
