"""The KV plan: what export decided about the KV cache, and what the runtime obeys.

It lies beside the IR as ``ov_kvcrush.json``: geometry and precision of each layer's cache, how the
weights were made, and a fingerprint of the IR it was written for.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

from ov_kvcrush.errors import ConfigError, ModelError, OVKVCrushError
from ov_kvcrush.files import read_json, replacing
from ov_kvcrush.model_folder import fingerprint
from ov_kvcrush.plan_records import (
    Calibration,
    Measurement,
    ValueBasis,
    check_by_layer,
    check_weights,
    require_numbers,
)
from ov_kvcrush.precisions import LayerPrecision, by_layer, ranges_of
from ov_kvcrush.selection.layer_shares import normalized

PLAN_FILE = "ov_kvcrush.json"
PLAN_VERSION = 5
# Of a layer, and elements of a head: no model has as many.
_MOST_HEADS = 100_000
# Plans of these versions lack fields that have a default; until 2 they list precisions layer by
# layer, and until 4 they have shares by layer.
_OLDER_VERSIONS = (1, 2, 3, 4)


@dataclass(frozen=True)
class LayerGeometry:
    """Attention of one layer: head counts, and head sizes in elements.

    ``sliding_window`` is the number of tokens a query sees, 0 for all of them.
    """

    num_query_heads: int
    num_kv_heads: int
    key_head_size: int
    value_head_size: int
    sliding_window: int = 0


@dataclass(frozen=True)
class KVPlan:
    """The KV cache of one exported model.

    Attributes:
        model_type: architecture name of the Hugging Face config (``llama``, ``qwen2``, …).
        fingerprint: identity of the IR (:func:`fingerprint`); empty in an estimate.
        layers: geometry by layer.
        precisions: storage by layer, as long as ``layers``.
        kv_bytes_per_token: bytes one token takes in all layers together.
        context_length: tokens the model was trained to read; 0 where its config does not say.
        head_shares: by layer, of each KV head in the budget of an evicting cache, 1 on average over
            all heads of the layers without a sliding window; 1 in those with one, which have no
            part in a budget. Empty where it was not measured.
        share_measurement: how they were measured; None where they were not, or that is not known.
        gate_measurement: how the gate beside the plan was fitted; None where there is none.
        calibration: how the precisions were chosen; None where they were given.
        value_basis: how the values' basis was found; None where it is the checkpoint's own.
        weights: how the weights were made, as NNCF notes it (``format``, and ``ratio``, … where
            they apply), and their ``size_bytes``.
        made_with: versions of the libraries that made it.
    """

    model_type: str
    fingerprint: str
    layers: tuple[LayerGeometry, ...]
    precisions: tuple[LayerPrecision, ...]
    kv_bytes_per_token: float
    context_length: int
    head_shares: tuple[tuple[float, ...], ...] = ()
    calibration: Calibration | None = None
    value_basis: ValueBasis | None = None
    share_measurement: Measurement | None = None
    gate_measurement: Measurement | None = None
    weights: dict[str, Any] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)

    @property
    def layer_shares(self) -> tuple[float, ...]:
        """By layer, the mean of its heads' shares, scaled to 1 on average over the layers.

        1 for a layer with a sliding window; empty where nothing was measured.
        """
        if not self.head_shares:
            return ()
        free = [n for n, layer in enumerate(self.layers) if not layer.sliding_window]
        means = [sum(self.head_shares[n]) / len(self.head_shares[n]) for n in free]
        by_layer = dict(zip(free, normalized(means), strict=True))
        return tuple(by_layer.get(n, 1.0) for n in range(len(self.layers)))

    def save(self, folder: str | Path) -> Path:
        """Write the plan into ``folder`` whole or not at all; returns its path."""
        path = Path(folder) / PLAN_FILE
        with replacing(path) as stream:
            self.write(stream)
        return path

    def write(self, stream: IO[bytes]) -> None:
        """Write the plan's file to ``stream``."""
        stream.write((json.dumps(self.to_dict(), indent=2) + "\n").encode())

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values, with its format version; precisions by ranges of layers."""
        body = dataclasses.asdict(self)
        ranges = ranges_of(self.precisions)
        body["precisions"] = {name: dataclasses.asdict(one) for name, one in ranges.items()}
        for name in _RECORDS:
            record = getattr(self, name)
            body[name] = record.to_dict() if record else {}
        return {"version": PLAN_VERSION, **body}

    @classmethod
    def from_dict(cls, stored: dict[str, Any], source: str = "KV plan") -> KVPlan:
        """Rebuild what ``to_dict`` wrote; ``source`` names it in errors.

        Raises:
            ModelError: another format version, or fields missing or unknown.
        """
        version = stored.get("version")
        if version not in (PLAN_VERSION, *_OLDER_VERSIONS):
            raise ModelError(
                f"{source} has format version {version}; this release reads {PLAN_VERSION}",
                "Write it anew with this release: ov-kvcrush calibrate MODEL_DIR",
            )
        body = {name: value for name, value in stored.items() if name != "version"}
        try:
            body["layers"] = read_layers(body["layers"])
            body["precisions"] = _read_precisions(body["precisions"])
            if version != PLAN_VERSION:
                body["head_shares"] = _heads_alike(body.pop("layer_shares", ()), body["layers"])
            body["head_shares"] = tuple(tuple(layer) for layer in body.get("head_shares", ()))
            for name, kind in _RECORDS.items():
                record = body.get(name)
                body[name] = kind.from_dict(record) if record else None
            plan = cls(**body)
            _check_types(plan)
        except (KeyError, TypeError, AttributeError, ConfigError) as error:
            reason = error.message if isinstance(error, ConfigError) else error
            raise ModelError(
                f"{source} is damaged: {reason}", "Write it anew: ov-kvcrush calibrate MODEL_DIR"
            ) from error
        if not plan.layers or len(plan.precisions) != len(plan.layers):
            raise ModelError(
                f"{source} is damaged: {len(plan.layers)} layers, "
                f"{len(plan.precisions)} precisions",
                "Write it anew: ov-kvcrush calibrate MODEL_DIR",
            )
        return plan

    @classmethod
    def load(cls, folder: str | Path) -> KVPlan | None:
        """The plan beside the IR in ``folder``, or None where there is none (a plain export).

        Raises:
            ModelError: the plan cannot be read, or was written for another IR.
        """
        path = Path(folder) / PLAN_FILE
        if not os.path.exists(path):
            return None
        try:
            stored = read_json(path)
        except OVKVCrushError as error:
            raise ModelError(
                f"the KV plan cannot be read: {error.message}",
                f"Run: ov-kvcrush calibrate {folder}, or delete the file to run without a plan.",
            ) from error
        if not isinstance(stored, dict):
            raise ModelError(f"the KV plan {path} is not a JSON object")
        plan = cls.from_dict(stored, f"the KV plan {path}")
        try:
            beside = fingerprint(folder)
        except OSError as error:
            raise ModelError(
                f"the model beside the KV plan {path} cannot be read: {error.strerror}",
                "Export the model again.",
            ) from error
        if plan.fingerprint != beside:
            raise ModelError(
                f"the KV plan {path} was written for another model than the IR beside it",
                f"Run: ov-kvcrush calibrate {folder}, or delete the file to run without a plan.",
            )
        return plan


# Fields of a plan that are records: empty objects in the file where there is none.
_RECORDS: dict[str, type[Calibration | ValueBasis | Measurement]] = {
    "calibration": Calibration,
    "value_basis": ValueBasis,
    "share_measurement": Measurement,
    "gate_measurement": Measurement,
}


def read_layers(stored: Any) -> tuple[LayerGeometry, ...]:
    """Geometry by layer, of JSON values; TypeError for what is not that of a model."""
    layers = tuple(LayerGeometry(**layer) for layer in stored)
    for layer in layers:
        for name, value in dataclasses.asdict(layer).items():
            least, most = (0, float("inf")) if name == "sliding_window" else (1, _MOST_HEADS)
            if type(value) is not int or not least <= value <= most:
                raise TypeError(f"{name} of a layer is {value!r}")
        if layer.num_query_heads % layer.num_kv_heads:
            raise TypeError(
                f"{layer.num_query_heads} query heads do not share {layer.num_kv_heads} KV heads"
            )
    return layers


def _check_types(plan: KVPlan) -> None:
    """TypeError for what is not a number or a text where the rest of the program counts on it."""
    kinds: dict[str, tuple[type, ...]] = {
        "model_type": (str,),
        "fingerprint": (str,),
        "kv_bytes_per_token": (int, float),
        "context_length": (int,),
        "weights": (dict,),
        "made_with": (dict,),
    }
    for name, kind in kinds.items():
        if not isinstance(getattr(plan, name), kind):
            raise TypeError(f"{name} is {getattr(plan, name)!r}")
    require_numbers(plan.kv_bytes_per_token, plan.context_length)
    check_weights(plan.weights)
    check_by_layer(len(plan.layers), plan.calibration, plan.value_basis, plan.gate_measurement)
    _check_head_shares(plan)


def _check_head_shares(plan: KVPlan) -> None:
    """TypeError for shares that are not one finite number of 0 or more for each KV head."""
    heads = [layer.num_kv_heads for layer in plan.layers]
    counts = [len(layer) for layer in plan.head_shares]
    if plan.head_shares and counts != heads:
        raise TypeError(f"head_shares are of {counts} heads by layer, and the layers have {heads}")
    for share in chain.from_iterable(plan.head_shares):
        if not isinstance(share, (int, float)) or not 0 <= share < _MOST_HEADS:
            raise TypeError(f"one of head_shares is {share!r}")


def _heads_alike(stored: Any, layers: tuple[LayerGeometry, ...]) -> list[list[Any]]:
    """Head shares of a plan that has them by layer; TypeError where they are of other layers."""
    if stored and len(stored) != len(layers):
        raise TypeError(f"{len(layers)} layers, {len(stored)} layer shares")
    return [
        [share] * layer.num_kv_heads for share, layer in zip(stored, layers, strict=bool(stored))
    ]


def _read_precisions(stored: Any) -> tuple[LayerPrecision, ...]:
    if isinstance(stored, list):  # until version 2
        stored = {str(number): layer for number, layer in enumerate(stored)}
    return by_layer(stored)
