"""Which heads hold what a repetition of the text looks at most: the teacher's highest scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_COUNTED = 1 / 8  # of all scores of all heads


def highest_scores(scores: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
    """By layer ``[H]``, how many of the highest eighth of all ``scores`` a head has.

    Args:
        scores: by layer ``[H, tokens]``.
    """
    together = np.concatenate([layer.ravel() for layer in scores])
    count = max(1, int(len(together) * _COUNTED))
    least = np.partition(together, -count)[-count]
    return [(layer >= least).sum(axis=1).astype(np.float64) for layer in scores]
