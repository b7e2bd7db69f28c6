"""Whether a difference between two configurations is more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

_NUM_RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True)
class Difference:
    """Of two rates in percentage points, or of two means, with its 95 % interval."""

    points: float
    low: float
    high: float

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
    draws = np.random.default_rng(_SEED).integers(len(gained), size=(_NUM_RESAMPLES, len(gained)))
    low, high = np.percentile(gained[draws].mean(axis=1), [2.5, 97.5])
    return Difference(float(gained.mean()), float(low), float(high))
