"""Importance methods: what was observed of a layer's cache, and a score for every token in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Observation:
    """What the runtime saw of one layer's cache: S slots, as many for every KV head.

    Attributes:
        window_attention: [Hq, S] softmax attention of the last w queries, summed over those
            queries, by query head. Hq is a multiple of H; a group of Hq / H neighbours shares a
            KV head.
        positions: [H, S] true position in the sequence of the token each KV head holds in each
            slot, strictly ascending in a row. After a cut the heads hold different tokens.
        distinctiveness: [H, S] how unlike its head's other keys each key is: minus the cosine
            similarity to the head's mean key (KeyDiff, arXiv 2504.15364). Only measured where the
            selector needs it.
    """

    window_attention: NDArray[np.float32]
    positions: NDArray[np.int32]
    distinctiveness: NDArray[np.float32] | None = None

    def slots(self, begin: int, end: int) -> Observation:
        """The same, of the slots ``begin`` … ``end - 1`` alone (views, nothing is copied)."""
        part = slice(begin, end)
        distinctiveness = self.distinctiveness
        return Observation(
            self.window_attention[:, part],
            self.positions[:, part],
            None if distinctiveness is None else distinctiveness[:, part],
        )

    def by_query_head(self) -> Observation:
        """The same as if every query head had a KV head of its own (H = Hq)."""
        group = len(self.window_attention) // len(self.positions)
        distinctiveness = self.distinctiveness
        return Observation(
            self.window_attention,
            np.repeat(self.positions, group, axis=0),
            None if distinctiveness is None else np.repeat(distinctiveness, group, axis=0),
        )

    def measured_distinctiveness(self) -> NDArray[np.float32]:
        """``distinctiveness``, or ConfigError where it was not measured."""
        if self.distinctiveness is None:
            raise ConfigError(
                "the selection needs the keys' distinctiveness, and it was not measured",
                "Measure it whenever the selector says needs_distinctiveness.",
            )
        return self.distinctiveness


class ImportanceMethod(ABC):
    """Scores the tokens of a cache; the highest are kept.

    A new method is a frozen dataclass with ``score``, and a line in ``IMPORTANCE_METHODS``.
    """

    needs_distinctiveness: ClassVar[bool] = False

    @abstractmethod
    def score(self, middle: Observation) -> NDArray[np.float32]:
        """Scores [H, n] of the n tokens between the start and the recent area, finite."""


@dataclass(frozen=True)
class SnapKV(ImportanceMethod):
    """SnapKV (arXiv 2404.14469): attention of the last queries, max-pooled over neighbours.

    Attributes:
        kernel_size: width of the pooling in slots, centred, odd; 1 pools nothing.
    """

    kernel_size: int = 31

    def __post_init__(self) -> None:
        """Refuse a kernel without a centre."""
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigError(
                f"kernel_size is {self.kernel_size}; a centred window is odd and at least 1",
                f"Use {max(self.kernel_size, 0) + 1}.",
            )

    def score(self, middle: Observation) -> NDArray[np.float32]:
        """Mean over the query heads of a KV head, then max-pooled."""
        num_heads, num_slots = middle.positions.shape
        grouped = middle.window_attention.reshape(num_heads, -1, num_slots)
        return max_pool(grouped.mean(axis=1), self.kernel_size)


IMPORTANCE_METHODS: dict[str, Callable[[int], ImportanceMethod]] = {"snapkv": SnapKV}
"""Each makes a method from the width of the pooling, which it is free to ignore."""


def max_pool(scores: NDArray[np.float32], kernel_size: int) -> NDArray[np.float32]:
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
