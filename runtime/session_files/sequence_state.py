"""What a sequence's cache holds beside its pages, as JSON values and arrays, checked both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence


class StateError(Exception):
    """It cannot be the state of a sequence's cache; the message says why."""


@dataclass(frozen=True)
class LayerState:
    """One layer's tokens, as in ``LayerCache``, and the queries of its window."""

    positions: NDArray[np.int32]
    slots: NDArray[np.int32]
    attention: NDArray[np.float32] | None
    queries: NDArray[np.float32] | None
    gate: NDArray[np.float32] | None = None

    @property
    def length(self) -> int:
        """Tokens of each KV head."""
        return int(self.positions.shape[1])


@dataclass(frozen=True)
class SequenceState:
    """A parked sequence without its pages.

    The cuts it had planned are not part of it: whoever continues it plans anew.

    Attributes:
        tokens: ``[n]`` ids.
        num_cached: how many of them the cache has read, at least one.
        rewind_floor: as in ``Sequence``.
        cuts: those so far.
        layers: by layer.
        is_thorough: its scores are of a second reading.
    """

    tokens: NDArray[np.int64]
    num_cached: int
    rewind_floor: int
    cuts: tuple[Cut, ...]
    layers: tuple[LayerState, ...]
    is_thorough: bool = False

    @classmethod
    def of(cls, sequence: Sequence) -> SequenceState:
        """The state of ``sequence``, which has read something; shares its arrays."""
        window = sequence.window
        return cls(
            np.array(sequence.tokens, np.int64),
            sequence.num_cached,
            sequence.rewind_floor,
            tuple(sequence.cuts),
            tuple(
                LayerState(
                    layer.positions,
                    layer.slots,
                    layer.attention,
                    None if window is None else window.queries(number),
                    layer.gate if sequence.is_scored else None,
                )
                for number, layer in enumerate(sequence.layers)
            ),
            sequence.thorough,
        )

    @property
    def is_accumulated(self) -> bool:
        """Whether the attention of all queries was summed up."""
        return self.layers[0].attention is not None

    def unscored(self) -> SequenceState:
        """The same without what a gate said."""
        layers = tuple(dataclasses.replace(layer, gate=None) for layer in self.layers)
        return dataclasses.replace(self, layers=layers)

    def restore(self, sequence: Sequence) -> None:
        """Let ``sequence``, new and of the same tokens, hold this; its pages are still to come.

        What its policy has no use for is left out. A window that was smaller, or is missing, fills
        again as tokens are read. A gate that has said nothing of what is stored has no say then.
        """
        if self.is_thorough:
            sequence.become_thorough()
        for layer, stored in zip(sequence.layers, self.layers, strict=True):
            attention = stored.attention if sequence.accumulates else None
            layer.hold(stored.positions, stored.slots, attention, stored.gate)
        queries = [layer.queries for layer in self.layers if layer.queries is not None]
        if sequence.window is not None and queries:
            sequence.window.push([rows.reshape(len(rows), -1) for rows in queries])
        sequence.num_cached = self.num_cached
        sequence.rewind_floor = self.rewind_floor
        sequence.cuts = list(self.cuts)

    # ------------------------------------------------------------- as values and arrays

    def values(self) -> dict[str, Any]:
        """What is not an array, as JSON values."""
        return {
            "num_cached": self.num_cached,
            "rewind_floor": self.rewind_floor,
            "cuts": [dataclasses.asdict(cut) for cut in self.cuts],
            "is_accumulated": self.is_accumulated,
            "has_window": self.layers[0].queries is not None,
            "has_gate": self.layers[0].gate is not None,
            "is_thorough": self.is_thorough,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its arrays by name."""
        found: dict[str, NDArray[Any]] = {"tokens": self.tokens}
        for number, layer in enumerate(self.layers):
            for name in _array_names(
                self.is_accumulated, layer.queries is not None, layer.gate is not None
            ):
                found[f"layers.{number}.{name}"] = getattr(layer, name)
        return found

    @classmethod
    def read(
        cls, values: Mapping[str, Any], array: Callable[[str], NDArray[Any]], num_layers: int
    ) -> SequenceState:
        """What :meth:`values` and :meth:`arrays` gave; still to be checked.

        Args:
            values: as stored.
            array: gives the array of a name; its errors pass.
            num_layers: layers of the model.

        Raises:
            StateError: ``values`` are malformed.
        """
        try:
            cuts = tuple(Cut(**cut) for cut in values["cuts"])
            # Files of version 1 know of neither.
            has_gate = values.get("has_gate", False)
            is_thorough = bool(values.get("is_thorough", False))
            names = _array_names(values["is_accumulated"], values["has_window"], has_gate)
            num_cached, rewind_floor = values["num_cached"], values["rewind_floor"]
        except (KeyError, TypeError) as error:
            raise StateError(f"its description of the cache is malformed ({error})") from error
        layers = []
        for number in range(num_layers):
            found = {name: array(f"layers.{number}.{name}") for name in names}
            layers.append(
                LayerState(
                    found["positions"],
                    found["slots"],
                    found.get("attention"),
                    found.get("queries"),
                    found.get("gate"),
                )
            )
        tokens = array("tokens")
        return cls(tokens, num_cached, rewind_floor, cuts, tuple(layers), is_thorough)

    # ------------------------------------------------------------- checks

    def check(self, geometry: SequenceOf[LayerGeometry], vocab_size: int) -> None:
        """Prove that an engine can go on from it.

        Raises:
            StateError: it cannot, and why.
        """
        _require_array("tokens", self.tokens, np.int64, (None,))
        numbers = (self.num_cached, self.rewind_floor)
        _require(all(type(n) is int for n in numbers), "its token counts are not whole numbers")
        _require(
            0 <= self.rewind_floor <= self.num_cached <= len(self.tokens) and self.num_cached > 0,
            f"{self.num_cached} of {len(self.tokens)} tokens cannot be cached "
            f"and taken back to {self.rewind_floor}",
        )
        _require(
            bool(((self.tokens >= 0) & (self.tokens < vocab_size)).all()),
            f"it has token ids that are not below {vocab_size}",
        )
        self._check_cuts()
        _require(
            self.layers[0].gate is not None or not self.is_thorough,
            "it was read twice, and has no scores",
        )
        windows = {None if one.queries is None else len(one.queries) for one in self.layers}
        _require(len(windows) == 1, "its layers have query windows of different sizes")
        for number, (layer, shape) in enumerate(zip(self.layers, geometry, strict=True)):
            self._check_layer(f"layers.{number}", layer, shape)

    def _check_cuts(self) -> None:
        for cut in self.cuts:
            numbers = (cut.num_cached, cut.budget)
            marks = (cut.reads_on, cut.thorough)
            are_numbers = all(type(n) is int for n in numbers)
            are_numbers &= all(type(mark) is bool for mark in marks)
            _require(
                are_numbers and cut.budget > 0 and 0 < cut.num_cached <= self.num_cached,
                "its list of cuts is malformed",
            )

    def _check_layer(self, name: str, layer: LayerState, shape: LayerGeometry) -> None:
        heads, query_heads = shape.num_kv_heads, shape.num_query_heads
        _require_array(f"{name}.positions", layer.positions, np.int32, (heads, None))
        length = layer.length
        _require_array(f"{name}.slots", layer.slots, np.int32, (heads, length))
        if layer.attention is not None:
            wanted = (query_heads, length)
            _require_array(f"{name}.attention", layer.attention, np.float32, wanted)
        if layer.gate is not None:
            _require_array(f"{name}.gate", layer.gate, np.float32, (heads, length))
        if layer.queries is not None:
            size = (None, query_heads, shape.key_head_size)
            _require_array(f"{name}.queries", layer.queries, np.float32, size)
            _require(len(layer.queries) <= self.num_cached, f"{name}.queries has too many")
        _require(0 < length <= self.num_cached, f"{name} holds {length} of {self.num_cached}")
        positions, slots = layer.positions, layer.slots
        _require(
            positions.min() >= 0
            and positions.max() < self.num_cached
            and bool((np.diff(positions, axis=1) > 0).all()),
            f"{name}.positions are not ascending from 0 to {self.num_cached - 1}",
        )
        _require(
            bool((np.sort(slots, axis=1) == np.arange(length)).all()),
            f"{name}.slots are not the numbers 0 to {length - 1}, each once",
        )
        # What may be taken back lies last and in order.
        newest = self.num_cached - self.rewind_floor
        _require(
            newest <= length
            and bool((slots[:, length - newest :] == np.arange(length - newest, length)).all())
            and bool(
                (
                    positions[:, length - newest :] == np.arange(self.rewind_floor, self.num_cached)
                ).all()
            ),
            f"{name} does not hold the last {newest} tokens in order",
        )


def _array_names(is_accumulated: bool, has_window: bool, has_gate: bool) -> list[str]:
    names = ["positions", "slots"]
    names += ["attention"] * bool(is_accumulated) + ["queries"] * bool(has_window)
    return names + ["gate"] * bool(has_gate)


def _require(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise StateError(message)


def _require_array(
    name: str, array: NDArray[Any], kind: type, shape: tuple[int | None, ...]
) -> None:
    """Refuse an array of another type or shape (None is any size), or with infinite numbers."""
    fits = array.ndim == len(shape) and all(
        wanted is None or size == wanted for size, wanted in zip(array.shape, shape, strict=True)
    )
    if array.dtype != kind or not fits:
        sizes = ["any" if size is None else size for size in shape]
        raise StateError(
            f"{name} is {array.dtype.name} {list(array.shape)}, not {kind.__name__} {sizes}"
        )
    _require(bool(np.isfinite(array).all()), f"{name} has numbers that are not finite")
