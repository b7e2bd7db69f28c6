"""How sure a mean is, and whether a difference of two configurations is more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_NUM_RESAMPLES = 2000
_SEED = 0
# Of one block of draws, so that thousands of samples do not take hundreds of MB.
_DRAWS_AT_ONCE = 2**21


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Of two rates in percentage points, or of two means, with its 95 % interval."""

    points: float
    low: float
    high: float

    @property
    def is_inside_interval(self) -> bool:
        """Whether the interval holds 0: chance alone could have made the difference."""
        return self.low <= 0 <= self.high

    def to_dict(self) -> dict[str, float]:
        """JSON values."""
        return asdict(self)


def paired_difference(ours: ArrayLike, theirs: ArrayLike, asked: ArrayLike) -> Difference | None:
    """Our rate minus theirs over the same conversations, by paired bootstrap over these.

    The questions about one document stand or fall together, so conversations are drawn and not
    questions (percentile bootstrap, Efron and Tibshirani 1993, chapter 13).

    Args:
        ours: right answers by conversation.
        theirs: the same of the other configuration.
        asked: questions by conversation.

    Returns:
        None where nothing was asked.
    """
    num_asked = np.asarray(asked)
    has_any = num_asked > 0
    if not has_any.any():
        return None
    num_asked = num_asked[has_any]
    gained = (np.asarray(ours) - np.asarray(theirs))[has_any]
    draws = np.random.default_rng(_SEED).integers(
        len(num_asked), size=(_NUM_RESAMPLES, len(num_asked))
    )
    rates = 100 * gained[draws].sum(axis=1) / num_asked[draws].sum(axis=1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return Difference(float(100 * gained.sum() / num_asked.sum()), float(low), float(high))


def paired_mean_difference(
    ours: Sequence[float | None], theirs: Sequence[float | None]
) -> Difference | None:
    """Our mean minus theirs over the same texts, by paired bootstrap over these.

    Args:
        ours: by text; None where there is nothing.
        theirs: the same of the other configuration.

    Returns:
        None where there is no text that both have.
    """
    gained = np.array(
        [a - b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    )
    if not len(gained):
        return None
    low, high = _interval(gained)
    return Difference(float(gained.mean()), low, high)


def bootstrap_mean(values: Sequence[float]) -> Estimate | None:
    """The mean of ``values`` and its 95 % interval, by bootstrap over them.

    Returns:
        None where there are none.
    """
    if not len(values):
        return None
    there = np.asarray(values, dtype=float)
    return Estimate(float(there.mean()), *_interval(there))


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of the mean of ``values``."""
    draw = np.random.default_rng(_SEED)
    block = max(1, _DRAWS_AT_ONCE // len(values))
    means = [
        values[draw.integers(len(values), size=(rows, len(values)))].mean(axis=1)
        for rows in (min(block, _NUM_RESAMPLES - at) for at in range(0, _NUM_RESAMPLES, block))
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)
