"""A KV plan of the user's own: precisions by ranges of layers in a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.precisions import LayerPrecision, by_layer

_EXAMPLE = (
    """For instance: {"0-1": {"key": "u8", "value": "u8"}, "2-7": {"key": "u8", "value": "u4"}}"""
)


def read_kv_file(path: str | Path) -> tuple[LayerPrecision, ...]:
    """The precision of each layer in ``path``, or of an earlier export's ``ov_kvcrush.json``.

    Raises:
        ConfigError: there is no such file, or it does not give each layer a precision.
    """
    path = Path(path)
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the KV plan {path}: {error.strerror}", "Give a JSON file, or auto."
        ) from error
    except ValueError as error:
        raise ConfigError(f"the KV plan {path} is not JSON: {error}", _EXAMPLE) from error
    if isinstance(stored, dict):
        stored = stored.get("precisions", stored)
    if not isinstance(stored, dict) or not stored:
        raise ConfigError(f"the KV plan {path} names no layers", _EXAMPLE)
    try:
        return by_layer(stored)
    except ConfigError as error:
        raise ConfigError(f"the KV plan {path}: {error.message}", error.hint or _EXAMPLE) from error


def require_layers(precisions: tuple[LayerPrecision, ...], num_layers: int) -> None:
    """Refuse ``precisions`` by layer of a model that does not have ``num_layers``.

    Raises:
        ConfigError: there are more or fewer.
    """
    if len(precisions) != num_layers:
        raise ConfigError(
            f"the KV plan is for {len(precisions)} layers, and the model has {num_layers}",
            f"Name the layers 0-{num_layers - 1}.",
        )
