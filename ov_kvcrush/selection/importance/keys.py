"""Importance by the keys themselves, alone or beside attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ov_kvcrush.selection.importance.base import ImportanceMethod, WindowMethod
from ov_kvcrush.selection.observation import Floats, Observation


@dataclass(frozen=True)
class KeyDiff(ImportanceMethod):
    """KeyDiff (arXiv 2504.15364): the keys least like their head's mean key. Looks at no query."""

    needs_distinctiveness: ClassVar[bool] = True

    def score(self, middle: Observation) -> Floats:
        """The distinctiveness."""
        return middle.need("distinctiveness")


@dataclass(frozen=True)
class AdaptiveRKV(WindowMethod):
    """After R-KV (arXiv 2505.24133): the tokens that hold most of the attention, then diversity.

    As many of the highest attended tokens as together hold ``attention_mass`` of a head's attention
    come first, in that order; behind them all others, the keys least like the head's mean first.
    Where little attention is spread over many tokens, the head keeps by attention; where a few
    tokens have it all, by diversity.

    Attributes:
        attention_mass: part of the attention, 0 to 1.
    """

    needs_distinctiveness: ClassVar[bool] = True

    attention_mass: float = 0.9

    def score(self, middle: Observation) -> Floats:
        """Above 1 by attention, below by diversity."""
        attention = self.window_attention(middle)
        order = np.argsort(-attention, axis=1, kind="stable")
        ordered = np.take_along_axis(attention, order, axis=1)
        before = np.cumsum(ordered, axis=1) - ordered
        leading = before < self.attention_mass * ordered.sum(axis=1, keepdims=True)
        is_leading = np.zeros_like(leading)
        np.put_along_axis(is_leading, order, leading, axis=1)
        share = attention / max(float(attention.max(initial=0.0)), 1e-30)
        diversity = (middle.need("distinctiveness") + 1) / 2
        return np.where(is_leading, 2 + share, diversity).astype(np.float32)
