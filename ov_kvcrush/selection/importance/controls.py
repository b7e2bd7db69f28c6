"""Methods that look at nothing but places: a baseline of the field, and a control."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ov_kvcrush.selection.importance.base import ImportanceMethod
from ov_kvcrush.selection.observation import Floats, Observation


@dataclass(frozen=True)
class StreamingLLM(ImportanceMethod):
    """StreamingLLM (arXiv 2309.17453): the first tokens and the newest."""

    def score(self, middle: Observation) -> Floats:
        """The newer, the higher."""
        return middle.positions.astype(np.float32)


@dataclass(frozen=True)
class Random(ImportanceMethod):
    """Any tokens, as a control: what a method must beat.

    Attributes:
        seed: of the draw.
    """

    seed: int = 0

    def score(self, middle: Observation) -> Floats:
        """Uniform in [0, 1)."""
        return np.random.default_rng(self.seed).random(middle.positions.shape, dtype=np.float32)
