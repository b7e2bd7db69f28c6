"""Importance by attention: of the last queries (SnapKV, PyramidKV, TOVA) or of all (H2O)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ov_kvcrush.selection.importance.base import (
    ImportanceMethod,
    WindowMethod,
    max_pool,
    require_centre,
)
from ov_kvcrush.selection.observation import Floats, Observation


@dataclass(frozen=True)
class SnapKV(WindowMethod):
    """SnapKV (arXiv 2404.14469): attention of the last queries, max-pooled over neighbours.

    Attributes:
        kernel_size: width of the pooling in slots, centred, odd; 1 pools nothing.
    """

    kernel_size: int = 31

    def __post_init__(self) -> None:
        """Refuse a kernel without a centre."""
        require_centre(self.kernel_size)

    def score(self, middle: Observation) -> Floats:
        """Mean over the query heads of a KV head, then max-pooled."""
        return max_pool(self.window_attention(middle), self.kernel_size)


@dataclass(frozen=True)
class PyramidKV(SnapKV):
    """PyramidKV (arXiv 2406.02069): SnapKV's scores, budgets that shrink from layer to layer."""

    layer_budgets: ClassVar[str] = "pyramid"


@dataclass(frozen=True)
class TOVA(ImportanceMethod):
    """TOVA (arXiv 2401.06104): attention of the last query alone, the same for all heads."""

    @property
    def num_window_queries(self) -> int:
        """The last query."""
        return 1

    def score(self, middle: Observation) -> Floats:
        """Mean over all heads of the layer."""
        mean = middle.need("window_attention").mean(axis=0)
        return np.tile(mean, (len(middle.positions), 1))


@dataclass(frozen=True)
class H2O(ImportanceMethod):
    """H2O (arXiv 2306.14048): attention accumulated over all queries so far."""

    needs_accumulation: ClassVar[bool] = True

    def score(self, middle: Observation) -> Floats:
        """Mean over the query heads of a KV head."""
        return middle.by_kv_head(middle.need("accumulated_attention"))
