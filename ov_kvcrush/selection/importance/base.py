"""What an importance method is, and the pooling that several of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.selection.observation import Floats, Observation


@dataclass(frozen=True)
class ImportanceMethod(ABC):
    """Scores the tokens of a cache; the highest are kept.

    A new method is a frozen dataclass with ``score``, and a line in ``IMPORTANCE_METHODS``. Its
    fields ``window_size``, ``kernel_size`` and ``seed``, where it has them, are the user's. What it
    looks at, it says here.

    Attributes:
        needs_accumulation: whether it looks at the attention of all queries so far.
        needs_distinctiveness: whether it looks at how unlike the other keys each key is.
        layer_budgets: name of the layer budgets that belong to it; empty for any.
    """

    needs_accumulation: ClassVar[bool] = False
    needs_distinctiveness: ClassVar[bool] = False
    layer_budgets: ClassVar[str] = ""

    @property
    def num_window_queries(self) -> int:
        """The last queries whose attention it looks at; 0 for none."""
        return 0

    @abstractmethod
    def score(self, middle: Observation) -> Floats:
        """Scores [H, n] of the n tokens between the start and the recent area, finite."""


@dataclass(frozen=True)
class WindowMethod(ImportanceMethod):
    """A method that looks through an observation window of the last queries.

    Attributes:
        window_size: w, queries in the window.
    """

    window_size: int = 16

    @property
    def num_window_queries(self) -> int:
        """The window."""
        return self.window_size

    def window_attention(self, middle: Observation) -> Floats:
        """[H, n] attention of the window, summed over it, mean over a KV head's query heads."""
        return middle.by_kv_head(middle.need("window_attention"))


def require_centre(kernel_size: int) -> None:
    """Raise ConfigError for a pooling width without a centre."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigError(
            f"kernel_size is {kernel_size}; a centred window is odd and at least 1",
            f"Use {max(kernel_size, 0) + 1}.",
        )


def max_pool(scores: Floats, kernel_size: int) -> Floats:
    """Maximum over the ``kernel_size`` (odd) neighbours of each of [heads, n] ``scores``, itself
    in the centre; at the ends over those that exist.

    Window widths double until the wanted one: log2(kernel_size) passes.
    """
    num_heads, length = scores.shape
    reach = kernel_size // 2
    pooled = np.full((num_heads, length + 2 * reach), -np.inf, dtype=np.float32)
    pooled[:, reach : reach + length] = scores
    width = 1
    while width < kernel_size:
        step = min(width, kernel_size - width)
        pooled = np.maximum(pooled[:, :-step], pooled[:, step:])
        width += step
    return pooled
