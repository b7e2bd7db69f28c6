"""The one ``ov.Core`` of the process, and what it knows: devices and their properties."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import openvino as ov

from ov_kvcrush.errors import (
    ConfigError,
    DeviceError,
    ModelError,
    OVKVCrushError,
    did_you_mean,
    last_line,
)

# Properties that OpenVINO itself takes, of any device.
_OF_ANY_DEVICE = ("CACHE_DIR", "CACHE_ENCRYPTION_CALLBACKS", "CACHE_MODE", "ENABLE_MMAP")
# Those that a plugin takes and does not list.
_UNLISTED = {"CPU": ("CPU_RUNTIME_CACHE_CAPACITY",)}


@functools.cache
def core() -> ov.Core:
    """The shared core, kept until the process ends.

    Each core's CPU plugin installs a signal stack for AMX state and puts back, when it goes, the
    one it found. Cores that go in another order than they came leave a stack that is no longer
    mapped, and the next Ctrl+C kills the process. So there is one, and it never goes.
    """
    return ov.Core()


def require_device(device: str) -> str:
    """``device`` as OpenVINO spells it.

    Raises:
        DeviceError: it does not exist here.
    """
    name = device.upper()
    available = core().available_devices
    if name not in {*available, *(one.split(".")[0] for one in available)}:
        raise DeviceError(
            f"{device!r} is not a device of this machine", f"Available: {', '.join(available)}."
        )
    return name


def require_properties(device: str, properties: Mapping[str, Any]) -> None:
    """Raise ConfigError for a property that neither ``device`` nor OpenVINO itself knows."""
    listed = core().get_property(device, "SUPPORTED_PROPERTIES")
    supported = {*listed, *_OF_ANY_DEVICE, *_UNLISTED.get(device, ())}
    for name in properties:
        if name not in supported:
            raise ConfigError(
                f"{name!r} is not a property of the {device} device", did_you_mean(name, supported)
            )


def not_compiled(error: RuntimeError, sentence: str, hint: str = "") -> OVKVCrushError:
    """What to raise for ``error``, of a compilation that ``sentence`` says has failed."""
    reason = last_line(error)
    if "for property key" in reason:
        return ConfigError(reason)
    return ModelError(f"{sentence}: {reason}", hint)
