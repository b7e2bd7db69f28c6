"""What the KV cache may be stored in: types, pairs the plugin takes, and layers of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ov_kvcrush.errors import ConfigError

KV_PRECISIONS = ("f32", "bf16", "u8", "u4")

# The CPU plugin's PagedAttention takes these pairs and rejects every other one
# (tests/runtime/model/test_paged_model.py::test_the_plugin_takes_just_these_precision_pairs).
KV_PRECISION_PAIRS = (
    ("f32", "f32"),
    ("bf16", "bf16"),
    ("u8", "u8"),
    ("u8", "u4"),
    ("u4", "u8"),
    ("u4", "u4"),
)


AUTO, SAME = "auto", "same"
DECODE_PRECISIONS = (AUTO, "f32", SAME)
"""What decoding may compute in: f32 where that is faster, always, or what prompts are read in."""

_MOST_LAYERS = 10_000  # no model has as many


@dataclass(frozen=True)
class LayerPrecision:
    """Storage of one layer's cache: ``f32``, ``bf16``, ``u8`` or ``u4`` for keys and values.

    The group sizes are elements that share a scale along the head; 0 leaves the plugin's default.
    """

    key: str
    value: str
    key_group_size: int = 0
    value_group_size: int = 0


def require_precision_pair(key: str, value: str) -> None:
    """Refuse a pair of KV precisions the plugin cannot hold together.

    Raises:
        ConfigError: ``(key, value)`` is not one of ``KV_PRECISION_PAIRS``.
    """
    if (key, value) not in KV_PRECISION_PAIRS:
        pairs = ", ".join(f"{k}/{v}" for k, v in KV_PRECISION_PAIRS)
        raise ConfigError(
            f"OpenVINO's paged attention cannot hold keys in {key} with values in {value}",
            f"Pairs (key/value) it takes: {pairs}.",
        )


def ranges_of(precisions: Sequence[LayerPrecision]) -> dict[str, LayerPrecision]:
    """The precision of each run of equal layers, by its first and last number: ``"2-13"``."""
    ranges, first = {}, 0
    for precision, run in groupby(precisions):
        last = first + len(list(run)) - 1
        ranges[str(first) if first == last else f"{first}-{last}"] = precision
        first = last + 1
    return ranges


def describe_precisions(precisions: Sequence[LayerPrecision]) -> dict[str, Any]:
    """JSON values: one name for keys and one for values, ``u8+u4`` where layers differ."""
    names = {}
    for side in ("key", "value"):
        kinds = {getattr(precision, side) for precision in precisions}
        names[f"{side}_cache_precision"] = "+".join(k for k in KV_PRECISIONS if k in kinds)
    ranges = {layers: f"{p.key}/{p.value}" for layers, p in ranges_of(precisions).items()}
    return {**names, "layer_precisions": ranges}


def by_layer(ranges: Mapping[str, Any]) -> tuple[LayerPrecision, ...]:
    """The precision of each layer, from what :func:`ranges_of` gives or its JSON values.

    Raises:
        ConfigError: a malformed range or precision, a layer in two ranges or in none.
    """
    found: dict[int, LayerPrecision] = {}
    for layers, stored in ranges.items():
        first, dash, last = layers.partition("-")
        try:
            numbers = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            numbers = range(0)
        if not numbers or numbers.start < 0 or numbers.stop > _MOST_LAYERS:
            raise ConfigError(
                f"{layers!r} is not a range of layers",
                'Name them by number, such as "0" or "2-13".',
            )
        precision = stored if isinstance(stored, LayerPrecision) else _parse(layers, stored)
        for number in numbers:
            if number in found:
                raise ConfigError(f"layer {number} is in two ranges of layers")
            found[number] = precision
    missing = next((n for n in range(len(found)) if n not in found), None)
    if missing is not None:
        raise ConfigError(f"layer {missing} is in no range of layers")
    return tuple(found[number] for number in range(len(found)))


def _parse(layers: str, stored: Any) -> LayerPrecision:
    try:
        precision = LayerPrecision(**stored)
    except TypeError:
        names = ", ".join(field.name for field in dataclasses.fields(LayerPrecision))
        raise ConfigError(
            f"layers {layers}: {stored!r} is not a precision", f"Its fields: {names}."
        ) from None
    for group in (precision.key_group_size, precision.value_group_size):
        if isinstance(group, bool) or not isinstance(group, int) or group < 0:
            raise ConfigError(f"layers {layers}: {group!r} is not a group size")
    require_precision_pair(precision.key, precision.value)
    return precision
