"""Whose cache some bytes are: the model, its layers, and what they store keys and values in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError, SessionError
from ov_kvcrush.plan import LayerGeometry, read_layers
from ov_kvcrush.precisions import LayerPrecision, by_layer, describe_precisions, ranges_of


@dataclass(frozen=True)
class CacheIdentity:
    """What the bytes of a cache mean something to.

    Attributes:
        model: fingerprint of the IR.
        vocab_size: token ids of the model.
        layers: geometry by layer of the model, whatever heads share a cache.
        precisions: what the cache stores, by layer of the model.
    """

    model: str
    vocab_size: int
    layers: tuple[LayerGeometry, ...]
    precisions: tuple[LayerPrecision, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": self.model,
            "vocab_size": self.vocab_size,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "precisions": {
                layers: dataclasses.asdict(precision)
                for layers, precision in ranges_of(self.precisions).items()
            },
            # In words, for the error that refuses another one.
            "stored_as": _in_words(self.precisions),
        }

    @classmethod
    def from_dict(cls, stored: Any, path: Path) -> CacheIdentity:
        """Rebuild what :meth:`to_dict` gave for the file at ``path``.

        Raises:
            SessionError: ``stored`` is something else.
        """
        try:
            identity = cls(
                stored["model"],
                stored["vocab_size"],
                read_layers(stored["layers"]),
                by_layer(stored["precisions"]),
            )
        except (KeyError, TypeError, AttributeError, ConfigError) as error:
            raise _nameless(path) from error
        is_whole = isinstance(identity.model, str) and type(identity.vocab_size) is int
        if not is_whole or not identity.layers or len(identity.precisions) != len(identity.layers):
            raise _nameless(path)
        return identity

    def require(self, stored: Any, path: Path) -> None:
        """Refuse a cache of another model, or in other precisions.

        Raises:
            SessionError: ``stored`` is not what :meth:`to_dict` gives.
        """
        own = self.to_dict()
        if not isinstance(stored, dict) or stored.keys() != own.keys():
            raise _nameless(path)
        if any(stored[name] != own[name] for name in ("model", "vocab_size", "layers")):
            raise SessionError(
                f"{path} was saved with another model",
                "Load the model it was saved with; exporting it again makes another one.",
            )
        if stored["precisions"] != own["precisions"]:
            raise SessionError(
                f"{path} holds {stored['stored_as']}, and this model was loaded to store "
                f"{own['stored_as']}",
                "Load the model with the key and value cache precision it was saved with.",
            )


def _nameless(path: Path) -> SessionError:
    return SessionError(f"{path} does not say which model it belongs to", "Use another copy of it.")


def _in_words(precisions: Sequence[LayerPrecision]) -> str:
    described = describe_precisions(precisions)
    layers = described["layer_precisions"]
    by_layer = "" if len(layers) == 1 else f" ({', '.join(f'{n}: {p}' for n, p in layers.items())})"
    return (
        f"keys in {described['key_cache_precision']} and values in "
        f"{described['value_cache_precision']}{by_layer}"
    )
