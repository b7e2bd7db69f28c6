"""Engines whose KV heads are divided as a test wants, whatever their plan says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.compiled_graph import Forward
from ov_kvcrush.runtime.paged import model_choice
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.pages.cache_layer import HeadGrouping, HeadGroups, each_head
from ov_kvcrush.runtime.sequences.sequence import Sequence as TokenSequence


def mixed(layers: Sequence[LayerGeometry]) -> HeadGroups:
    """Layers of one, two and more groups in turn, their heads side by side and not."""
    return [_mixes(layer.num_kv_heads)[n % 4] for n, layer in enumerate(layers)]


def _mixes(count: int) -> list[list[list[int]]]:
    heads = list(range(count))
    mixes = [
        [heads],
        [heads[:1], heads[1:]],
        [heads[1::2][::-1], heads[::2]],
        [[head] for head in [*heads[1::2], *heads[::2]][::-1]],
    ]
    return [[group for group in mix if group] for mix in mixes]


GROUPINGS: dict[str, HeadGrouping] = {"each head": each_head, "mixed": mixed}


@contextmanager
def divided(grouping: HeadGrouping) -> Iterator[None]:
    """Engines made inside the ``with`` divide their heads so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_choice, "_grouping", lambda configs, shares: grouping)
        yield


def held_by_head(engine: PagedEngine, sequence: TokenSequence) -> dict[tuple[int, int], list[Any]]:
    """By layer of the model and KV head: positions, slots, attention and gate of its tokens."""
    found: dict[tuple[int, int], list[Any]] = {}
    for layer, held in zip(engine.model.cache_layers, sequence.layers, strict=True):
        count = len(layer.heads)
        parts = (held.positions, held.slots, held.attention, held.gate)
        apart = [[None] * count if part is None else np.split(part, count) for part in parts]
        for place, head in enumerate(layer.heads):
            rows = [part[place] for part in apart]
            found[layer.layer, head] = [None if row is None else row.tolist() for row in rows]
    return found


def listen(engine: PagedEngine) -> list[NDArray[np.float32]]:
    """The logits of each inference of ``engine`` from now on."""
    told: list[NDArray[np.float32]] = []
    forward = engine.model.forward

    def listening(batch: Batch) -> Forward:
        found = forward(batch)
        told.append(found.logits.copy())
        return found

    engine.model.forward = listening  # type: ignore[method-assign]
    return told
