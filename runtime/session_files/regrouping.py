"""What was saved with some groups of KV heads, for an engine whose groups are others.

A head's tokens do not depend on whose cache it shares: its rows of every array, and its part of
every page, are taken as they are. Only heads that hold as many tokens can share a cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.pages.cache_layer import CacheLayer, part_of
from ov_kvcrush.runtime.session_files.sequence_state import LayerState, SequenceState, StateError


class RegroupingError(Exception):
    """Heads that are to share a cache hold different numbers of tokens; says which."""


@dataclass(frozen=True)
class SavedHead:
    """A KV head in a file.

    Attributes:
        layer: number of the file's cache layer that holds it.
        place: of it among that one's heads.
    """

    layer: int
    place: int


Regrouping = SequenceOf[SequenceOf[SavedHead]]
"""By cache layer of the engine, where its heads are in the file."""


def regrouping(saved: SequenceOf[CacheLayer], wanted: SequenceOf[CacheLayer]) -> Regrouping:
    """Where the heads of the cache layers ``wanted`` are, both of one model."""
    places = {
        (layer.layer, head): SavedHead(number, place)
        for number, layer in enumerate(saved)
        for place, head in enumerate(layer.heads)
    }
    return [[places[layer.layer, head] for head in layer.heads] for layer in wanted]


@dataclass(frozen=True)
class Part:
    """Heads that a cache layer of the engine takes from one of a file.

    Attributes:
        layer: number of the engine's cache layer.
        places: of the heads among that one's.
        saved_places: of the same heads among those of the file's cache layer.
    """

    layer: int
    places: list[int]
    saved_places: list[int]


def by_saved_layer(heads: Regrouping) -> dict[int, list[Part]]:
    """By cache layer of a file, in their order, who takes which of its heads."""
    found: dict[int, dict[int, Part]] = {}
    for number, own in enumerate(heads):
        for place, head in enumerate(own):
            part = found.setdefault(head.layer, {}).setdefault(number, Part(number, [], []))
            part.places.append(place)
            part.saved_places.append(head.place)
    return {saved: list(found[saved].values()) for saved in sorted(found)}


def regrouped(
    state: SequenceState, heads: Regrouping, wanted: SequenceOf[CacheLayer]
) -> SequenceState:
    """``state`` of a file by the cache layers of an engine.

    Args:
        state: by cache layer of the file.
        heads: as :func:`regrouping` found them.
        wanted: the engine's cache layers.

    Raises:
        RegroupingError: heads that would share a cache hold different numbers of tokens.
    """
    layers = []
    for own, layer in zip(heads, wanted, strict=True):
        lengths = sorted({state.layers[head.layer].length for head in own})
        if len(lengths) > 1:
            raise RegroupingError(f"{layer} hold {lengths[0]} to {lengths[-1]} tokens each")
        parts = [_part(state.layers[head.layer], head.place) for head in own]
        layers.append(
            LayerState(
                *(
                    _together([getattr(part, field.name) for part in parts], field.name)
                    for field in dataclasses.fields(LayerState)
                )
            )
        )
    return dataclasses.replace(state, layers=tuple(layers))


def read_groups(stored: Any, undivided: SequenceOf[CacheLayer]) -> tuple[CacheLayer, ...]:
    """The cache layers that a file says it holds; without a word of them, ``undivided``.

    Args:
        stored: ``[[layer, [heads]], …]``, as JSON values.
        undivided: all heads of each layer of the model together.

    Raises:
        StateError: they are not all heads of the model, each once.
    """
    if stored is None:
        return tuple(undivided)
    geometry = {layer.layer: layer.geometry for layer in undivided}
    try:
        groups = [(int(layer), tuple(int(head) for head in heads)) for layer, heads in stored]
    except (TypeError, ValueError) as error:
        raise StateError(f"its groups of KV heads are malformed ({error})") from error
    found = sorted((layer, head) for layer, heads in groups for head in heads)
    every = sorted((layer.layer, head) for layer in undivided for head in layer.heads)
    if found != every or not all(heads for _, heads in groups):
        raise StateError("its groups of KV heads are not all heads of the model, each once")
    return tuple(
        CacheLayer(layer, heads, part_of(geometry[layer], len(heads))) for layer, heads in groups
    )


def groups_to_json(layers: SequenceOf[CacheLayer]) -> list[Any]:
    """What :func:`read_groups` reads."""
    return [[layer.layer, list(layer.heads)] for layer in layers]


def _part(layer: LayerState, place: int) -> LayerState:
    """One head of ``layer``, its query heads beside it."""
    heads = len(layer.positions)

    def rows(array: NDArray[Any] | None, axis: int = 0) -> NDArray[Any] | None:
        if array is None:
            return None
        count = array.shape[axis] // heads
        return array.take(range(place * count, (place + 1) * count), axis)

    return LayerState(
        layer.positions[place : place + 1],
        layer.slots[place : place + 1],
        rows(layer.attention),
        rows(layer.queries, 1),
        rows(layer.gate),
    )


def _together(arrays: list[NDArray[Any] | None], name: str) -> Any:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present, axis=1 if name == "queries" else 0) if present else None
