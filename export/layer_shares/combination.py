"""Several measures of the heads of a model made one: shares of a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.selection.layer_shares import with_least_share

Measure = Sequence[NDArray[np.float64]]
"""By layer ``[H]``, 0 or more; ``[1]`` where a layer was measured as a whole."""


def head_shares(
    measures: Sequence[tuple[Measure, float]], heads: Sequence[int]
) -> list[NDArray[np.float64]]:
    """The mean of ``measures``, each scaled to 1 on average over all heads.

    Args:
        measures: each with the least share of a head, as a part of an even one: copying and
            repeating are not all that a memory serves.
        heads: KV heads by layer.

    Returns:
        By layer ``[H]``, 1 on average over all heads.
    """
    scaled = [
        np.array(with_least_share(_by_head(measure, heads).tolist(), least))
        for measure, least in measures
    ]
    return np.split(np.mean(scaled, axis=0), np.cumsum(heads)[:-1])


def at_least(measure: Measure, least: float, heads: Sequence[int]) -> list[NDArray[np.float64]]:
    """``measure`` by head, none below the part ``least`` of the mean."""
    flat = _by_head(measure, heads)
    return np.split(np.maximum(flat, least * flat.mean()), np.cumsum(heads)[:-1])


def _by_head(measure: Measure, heads: Sequence[int]) -> NDArray[np.float64]:
    """All heads in order; what was measured of a whole layer is divided evenly among its heads."""
    return np.concatenate(
        [
            np.full(count, layer[0] / count) if len(layer) != count else layer
            for layer, count in zip(measure, heads, strict=True)
        ]
    )
