"""What the runtime saw of one layer's cache: all that a selection may look at."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.errors import ConfigError

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Observation:
    """One layer's cache: S slots, as many for every KV head.

    What was not measured is None; a selector says what it needs.

    Attributes:
        window_attention: [Hq, S] softmax attention of the last w queries, summed over those
            queries, by query head. Hq is a multiple of H; a group of Hq / H neighbours shares a
            KV head.
        positions: [H, S] true position in the sequence of the token each KV head holds in each
            slot, strictly ascending in a row. After a cut the heads hold different tokens.
        distinctiveness: [H, S] how unlike its head's other keys each key is: minus the cosine
            similarity to the head's mean key (KeyDiff, arXiv 2504.15364).
        accumulated_attention: [Hq, S] attention of all queries so far, summed, by query head.
        gate: [H, S] how much later text is expected to look at each token: what the model's gate
            said when it was read, a logarithm.
    """

    window_attention: Floats | None
    positions: NDArray[np.int32]
    distinctiveness: Floats | None = None
    accumulated_attention: Floats | None = None
    gate: Floats | None = None

    def slots(self, begin: int, end: int) -> Observation:
        """The same, of the slots ``begin`` … ``end - 1`` alone (views, nothing is copied)."""
        measured = {name: value[:, begin:end] for name, value in self._measured().items()}
        return replace(self, **measured)

    def by_query_head(self) -> Observation:
        """The same as if every query head had a KV head of its own (H = Hq).

        Without any attention nothing tells query heads apart, and nothing changes.
        """
        measured = self._measured()
        num_query_heads = max(map(len, measured.values()))
        group = num_query_heads // len(self.positions)
        spread = {
            name: np.repeat(value, group, axis=0)
            for name, value in measured.items()
            if len(value) != num_query_heads
        }
        return replace(self, **spread)

    def by_kv_head(self, attention: Floats) -> Floats:
        """Mean of [Hq, S] ``attention`` over the query heads of each KV head: [H, S]."""
        num_heads, num_slots = self.positions.shape
        if len(attention) == num_heads:
            return attention
        return np.asarray(attention.reshape(num_heads, -1, num_slots).mean(axis=1))

    def need(self, name: str) -> Floats:
        """The measured quantity called ``name``; ConfigError where it was not measured."""
        value: Floats | None = getattr(self, name)
        if value is None:
            raise ConfigError(
                f"the selection needs the {name.replace('_', ' ')}, and it was not measured",
                "Measure what the selector says it needs.",
            )
        return value

    def _measured(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
