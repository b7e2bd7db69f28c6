"""The gate: how much later text will want a token, told by a small product with its state.

KVzap's linear form (arXiv 2601.07891): a number a token and KV head, known when the token is read,
learnt from what a second reading of texts looked at. Its weights lie beside the IR.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ov_kvcrush.errors import ModelError
from ov_kvcrush.files import replacing
from ov_kvcrush.model_folder import fingerprint

GATE_FILE = "ov_kvcrush_gate.safetensors"

_FORMAT = "ov-kvcrush-gate"
_VERSION = 1
# Two real models repeat at 0.04 and 0.15 nats a token and gain by their gates; a small one that
# repeats at 0.64 loses (docs/selection.md).
MOST_NATS_REPEATING = 0.4
_AGAIN = "Run: ov-kvcrush calibrate {folder} --only gate"


@dataclass(frozen=True, eq=False)
class Gate:
    """A linear gate for every layer of one model.

    The score of a token for a KV head, ``state @ weights + bias``, is the predicted natural
    logarithm of the highest attention that later text pays to it, weighed by what its value does.

    Attributes:
        weights: by layer ``[hidden, H]`` float32, for the state that enters the K projection.
        biases: by layer ``[H]`` float32.
        fingerprint: of the IR it was made for (``model_folder.fingerprint``).
        about: how it was made, as JSON values.
    """

    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]
    fingerprint: str
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """ValueError for weights and biases that do not go together."""
        if not self.weights or len(self.weights) != len(self.biases):
            raise ValueError(f"{len(self.weights)} layers of weights, {len(self.biases)} of biases")
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            fits = weight.ndim == 2 and bias.shape == weight.shape[1:] and weight.size
            if not fits or weight.dtype != np.float32 or bias.dtype != np.float32:
                raise ValueError(f"layer {number} has weights {weight.shape}, bias {bias.shape}")
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise ValueError(f"layer {number} has numbers that are not finite")

    @property
    def is_trusted(self) -> bool:
        """Whether cuts go by it unless they are told to.

        It was learnt from what the model looks at while it repeats texts; of a model that repeats
        them badly that says little.
        """
        return float(self.about.get("nats_repeating", 0.0)) <= MOST_NATS_REPEATING

    @property
    def digest(self) -> str:
        """Of the weights: scores of another gate cannot be compared with this one's."""
        digest = hashlib.sha256()
        for array in (*self.weights, *self.biases):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def write(self, stream: IO[bytes]) -> None:
        """Write the gate's file to ``stream``."""
        arrays = {}
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            arrays[f"layers.{number}.weight"] = np.ascontiguousarray(weight)
            arrays[f"layers.{number}.bias"] = np.ascontiguousarray(bias)
        metadata = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "fingerprint": self.fingerprint,
            "about": json.dumps(self.about),
        }
        stream.write(save(arrays, metadata))

    def save(self, folder: str | Path) -> Path:
        """Write the gate into ``folder`` whole or not at all; returns its path."""
        path = Path(folder) / GATE_FILE
        with replacing(path) as stream:
            self.write(stream)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Gate | None:
        """The gate beside the IR in ``folder``, or None where there is none.

        Raises:
            ModelError: it cannot be read, or was made for another IR.
        """
        path = Path(folder) / GATE_FILE
        if not os.path.exists(path):
            return None
        again = _AGAIN.format(folder=folder)
        try:
            gate = cls._read(path.read_bytes())
        except OSError as error:
            raise ModelError(f"the gate {path} cannot be read: {error.strerror}", again) from error
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(f"the gate {path} is damaged: {error}", again) from error
        if gate.fingerprint != fingerprint(folder):
            raise ModelError(
                f"the gate {path} was made for another model than the IR beside it",
                f"{again}, or delete the file to run without a gate.",
            )
        return gate

    @classmethod
    def _read(cls, content: bytes) -> Gate:
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        if metadata["format"] != _FORMAT or metadata["version"] != str(_VERSION):
            raise ValueError(f"it has format version {metadata['version']}, not {_VERSION}")
        arrays = load(content)
        layers = range(len(arrays) // 2)
        return cls(
            tuple(arrays[f"layers.{number}.weight"] for number in layers),
            tuple(arrays[f"layers.{number}.bias"] for number in layers),
            metadata["fingerprint"],
            json.loads(metadata["about"]),
        )
