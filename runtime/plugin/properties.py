"""Properties of the CPU plugin: the type it computes in, and the types it stores the cache in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openvino as ov

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.precisions import LayerPrecision, require_precision_pair
from ov_kvcrush.runtime.plugin.core import core

ENABLE_MMAP = "ENABLE_MMAP"
INFERENCE_PRECISION = "INFERENCE_PRECISION_HINT"
VALUE_GROUP_SIZE = "VALUE_CACHE_GROUP_SIZE"

_HALVES = ("f16", "bf16")


def inference_type(properties: Mapping[str, Any]) -> ov.Type:
    """The type the plugin computes in: what ``properties`` ask for, else its own choice."""
    own_choice = core().get_property("CPU", INFERENCE_PRECISION)
    name = type_name(properties.get(INFERENCE_PRECISION) or own_choice)
    return ov.Type.bf16 if name == "bf16" else ov.Type.f32


def with_precision(
    properties: Mapping[str, Any], precision: LayerPrecision | None
) -> Mapping[str, Any]:
    """``properties`` of the plugin with those that store the cache in ``precision``, if any.

    Raises:
        ConfigError: the plugin has no such pair, or not with the inference precision asked for.
    """
    if precision is None:
        return properties
    require_precision_pair(precision.key, precision.value)
    wanted = dict(properties)
    wanted["KEY_CACHE_PRECISION"] = precision.key
    wanted["VALUE_CACHE_PRECISION"] = precision.value
    if precision.key_group_size:
        wanted["KEY_CACHE_GROUP_SIZE"] = precision.key_group_size
    if precision.value_group_size:
        wanted.setdefault(VALUE_GROUP_SIZE, precision.value_group_size)
    # The plugin stores f32 only where it computes in f32, and bf16 only where it does not.
    hint_name = type_name(properties.get(INFERENCE_PRECISION))
    if precision.key == "f32" and hint_name is None:
        wanted[INFERENCE_PRECISION] = "f32"
    elif (precision.key == "f32" and hint_name != "f32") or (
        precision.key == "bf16" and hint_name == "f32"
    ):
        raise ConfigError(
            f"a KV cache in {precision.key} does not go with INFERENCE_PRECISION_HINT {hint_name}",
            "f32 caches need f32 inference, bf16 caches bf16 inference; or use u8 or u4.",
        )
    return wanted


def precision_unasked(options: Mapping[str, str]) -> LayerPrecision:
    """What the cache is stored in where nobody asks for anything.

    Args:
        options: that the IR carries, by name; what they leave open is the plugin's own choice.

    Raises:
        ConfigError: the IR asks for types that the plugin does not hold together.
    """
    both = options.get("KV_CACHE_PRECISION")
    kinds = []
    for side in ("KEY", "VALUE"):
        name = f"{side}_CACHE_PRECISION"
        kinds.append(options.get(name) or both or type_name(core().get_property("CPU", name)) or "")
    # For whoever is to compute in f16 or bf16: stored is what is computed in.
    key, value = (inference_type({}).get_type_name() if k in _HALVES else k for k in kinds)
    require_precision_pair(key, value)
    group = options.get(VALUE_GROUP_SIZE, "")
    return LayerPrecision(key, value, value_group_size=int(group) if group.isdecimal() else 0)


def type_name(kind: Any) -> str | None:
    """What OpenVINO calls the type that a property's value is, as an ``ov.Type`` or its name."""
    if kind is None:
        return None
    return str(kind.get_type_name() if isinstance(kind, ov.Type) else kind)
