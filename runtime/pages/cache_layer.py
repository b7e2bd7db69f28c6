"""Which KV heads share a cache: a layer's heads in groups, each of them a cache layer.

Heads that share one hold as many tokens, on the same pages. Each cache layer has pages, lengths and
a part of the budget of its own; the rest of the engine calls it a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ov_kvcrush.plan import LayerGeometry

HeadGroups = Sequence[Sequence[Sequence[int]]]
"""By layer of the model, groups of its KV heads; every head in one of them."""
HeadGrouping = Callable[[Sequence[LayerGeometry]], HeadGroups]
"""Makes them for a model of such layers."""


@dataclass(frozen=True)
class CacheLayer:
    """KV heads of one layer of the model that share a cache.

    Attributes:
        layer: of the model.
        heads: its KV heads, as they lie in a page.
        geometry: of these heads and the queries that look at them.
    """

    layer: int
    heads: tuple[int, ...]
    geometry: LayerGeometry

    def __str__(self) -> str:
        """As users know it: which KV heads of which layer of the model."""
        first, last, count = self.heads[0], self.heads[-1], len(self.heads)
        if count == 1:
            return f"KV head {first} of layer {self.layer}"
        in_a_row = self.heads == tuple(range(first, first + count))
        heads = f"{first} to {last}" if in_a_row else ", ".join(map(str, self.heads))
        return f"KV heads {heads} of layer {self.layer}"


def cache_layers(layers: Sequence[LayerGeometry], groups: HeadGroups) -> tuple[CacheLayer, ...]:
    """The cache layers of a model, in the order of its layers.

    Args:
        layers: geometry by layer of the model.
        groups: of their KV heads.
    """
    return tuple(
        CacheLayer(number, tuple(heads), part_of(layer, len(heads)))
        for number, (layer, members) in enumerate(zip(layers, groups, strict=True))
        for heads in members
    )


def undivided(layers: Sequence[LayerGeometry]) -> HeadGroups:
    """All heads of a layer together."""
    return [[range(layer.num_kv_heads)] for layer in layers]


def each_head(layers: Sequence[LayerGeometry]) -> HeadGroups:
    """Every head by itself; a layer with a sliding window, which has no budget, undivided."""
    return [
        [range(layer.num_kv_heads)]
        if layer.sliding_window
        else [[head] for head in range(layer.num_kv_heads)]
        for layer in layers
    ]


def whole_layers(layers: Sequence[CacheLayer]) -> tuple[CacheLayer, ...]:
    """The layers of the model that ``layers`` are of, undivided."""
    heads: dict[int, int] = {}
    for part in layers:
        heads[part.layer] = heads.get(part.layer, 0) + len(part.heads)
    geometry = {part.layer: part.geometry for part in layers}
    return tuple(
        CacheLayer(number, tuple(range(count)), part_of(geometry[number], count))
        for number, count in heads.items()
    )


def part_of(layer: LayerGeometry, num_kv_heads: int) -> LayerGeometry:
    """``layer`` with so many of its KV heads, and the query heads that look at them."""
    num_query_heads = layer.num_query_heads // layer.num_kv_heads * num_kv_heads
    return replace(layer, num_kv_heads=num_kv_heads, num_query_heads=num_query_heads)
