"""The properties a user gives: what of them are settings of ours, and what the device gets."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from typing import Any

import openvino as ov

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, OVKVCrushWarning
from ov_kvcrush.precisions import KV_PRECISIONS
from ov_kvcrush.runtime.plugin.core import require_properties
from ov_kvcrush.runtime.plugin.properties import ENABLE_MMAP, VALUE_GROUP_SIZE, type_name

_DEVICE_PROPERTIES = "DEVICE_PROPERTIES"
_KEY_GROUP_SIZE = "KEY_CACHE_GROUP_SIZE"
_MODEL_CACHE = ("CACHE_DIR", "CACHE_MODE", "CACHE_ENCRYPTION_CALLBACKS")
_CACHE_MODES = ("OPTIMIZE_SIZE", "OPTIMIZE_SPEED")
_WORDS = {"YES": True, "TRUE": True, "1": True, "NO": False, "FALSE": False, "0": False}


def read_properties(
    device: str, given: Mapping[str, Any], config: KVCacheConfig
) -> tuple[KVCacheConfig, dict[str, Any]]:
    """``config`` with the precisions that ``given`` ask for, and what is left for ``device``.

    As in OpenVINO ``DEVICE_PROPERTIES`` hold others by device, which go first. On CPU the cache's
    precisions become settings of ``config``, and the cache of compiled models is left out with a
    note: the plugin writes paged models there that it cannot load again
    (tests/runtime/plugin/test_given_properties.py). Other devices get everything.

    Args:
        device: as OpenVINO spells it.
        given: by name.
        config: what the cache may hold.

    Raises:
        ConfigError: the device does not know a property, it has a wrong value, would have no
            effect, or contradicts ``config``.
    """
    properties = _of_device(device, given)
    require_properties(device, properties)
    if ENABLE_MMAP in properties:
        properties[ENABLE_MMAP] = read_switch(ENABLE_MMAP, properties[ENABLE_MMAP])
    if device == "CPU":
        config = _with_precisions(config, properties)
        _check_group_sizes(properties)
        _leave_out_model_cache(properties)
    return config, properties


def read_switch(name: str, value: Any) -> bool:
    """Whether a property that is on or off is on, in OpenVINO's spellings.

    Raises:
        ConfigError: it is neither.
    """
    word = str(value).upper()
    if word not in _WORDS:
        raise ConfigError(f"{name} is {value!r}; it takes True or False")
    return _WORDS[word]


def _of_device(device: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All properties of ``device``, those given for it alone in place of those for all."""
    properties = {str(name): _unwrapped(value) for name, value in given.items()}
    by_device = properties.pop(_DEVICE_PROPERTIES, {})
    if isinstance(by_device, str):
        try:
            by_device = json.loads(by_device)
        except ValueError:
            by_device = None
    wrong = not isinstance(by_device, Mapping)
    if wrong or not all(isinstance(one, Mapping) for one in by_device.values()):
        raise ConfigError(
            f"{_DEVICE_PROPERTIES} are not properties by device",
            'For instance: {"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}',
        )
    for name, own in by_device.items():
        if name.upper() in (device, device.split(".")[0]):
            properties |= {key: _unwrapped(value) for key, value in own.items()}
    return properties


def _unwrapped(value: Any) -> Any:
    return value.value if isinstance(value, ov.OVAny) else value


def _with_precisions(config: KVCacheConfig, properties: dict[str, Any]) -> KVCacheConfig:
    """``config`` with the cache's precisions, which are taken out of ``properties``."""
    both, changes = _precision("KV_CACHE_PRECISION", properties), dict[str, Any]()
    for name in ("key_cache_precision", "value_cache_precision"):
        asked = _precision(name.upper(), properties) or both
        own = getattr(config, name)
        if asked and own and asked != own:
            raise ConfigError(
                f"{name} is {own} in kv_cache_config and {asked} in the properties",
                "Give it once.",
            )
        if asked:
            changes[name] = asked
    return dataclasses.replace(config, **changes)


def _precision(name: str, properties: dict[str, Any]) -> str | None:
    """The precision called ``name``, taken out of ``properties``; None leaves it open."""
    asked = type_name(properties.pop(name, None))
    if asked in (None, "undefined", "dynamic"):
        return None
    if asked not in KV_PRECISIONS:
        raise ConfigError(
            f"{name} {asked!r} is not a precision of the KV cache",
            f"Known: {', '.join(KV_PRECISIONS)}.",
        )
    return asked


def _check_group_sizes(properties: dict[str, Any]) -> None:
    for name in (_KEY_GROUP_SIZE, VALUE_GROUP_SIZE):
        try:
            size = int(str(properties.get(name, 0)))
        except ValueError:
            size = -1
        if size < 0:
            raise ConfigError(f"{name} is {properties[name]!r}; it takes a whole number, 0 or more")
        if name in properties:
            properties[name] = size
    if properties.pop(_KEY_GROUP_SIZE, 0):
        raise ConfigError(
            f"{_KEY_GROUP_SIZE} has no effect: in a page each channel of keys has its own scale",
            f"Leave it out; {VALUE_GROUP_SIZE} is obeyed.",
        )


def _leave_out_model_cache(properties: dict[str, Any]) -> None:
    mode = properties.get("CACHE_MODE", _CACHE_MODES[0])
    if getattr(mode, "name", mode) not in _CACHE_MODES:
        raise ConfigError(f"CACHE_MODE {mode!r} is not known", f"Known: {', '.join(_CACHE_MODES)}.")
    folder, *_ = [properties.pop(name, None) for name in _MODEL_CACHE]
    if folder:
        warnings.warn(
            "CACHE_DIR is left out: OpenVINO's CPU plugin cannot load a model with a paged KV "
            "cache from it, so each start compiles the model",
            OVKVCrushWarning,
            stacklevel=2,
        )
