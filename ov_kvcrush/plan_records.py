"""What a KV plan records of its making: what was measured, on which texts, and what came out.

Nothing runs by it; it is there to be shown, and to choose again on the same grounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ov_kvcrush.precisions import LayerPrecision

# Nothing that is measured or counted here is larger; numbers beyond would overflow elsewhere.
_MOST = 1e18
# A divergence is computed in float32: one of nearly nothing may come out below 0.
_LEAST_KL = -1.0


def require_numbers(*values: Any, least: float = 0) -> None:
    """TypeError for what is not a finite number, or below ``least``."""
    for value in values:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not least <= value <= _MOST:
            raise TypeError(f"{value!r} is not a number that can be here")


def _require_texts(*values: Any) -> None:
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is not a text")


def _numbers(stored: Iterable[Any], least: float = 0) -> tuple[Any, ...]:
    numbers = tuple(stored)
    require_numbers(*numbers, least=least)
    return numbers


@dataclass(frozen=True)
class CacheOutput:
    """What the whole model says with one KV cache to a text that the plan was not made on.

    Attributes:
        perplexity: of that text.
        kl: divergence from the output with a cache in f32, in nats a token.
        bytes_per_token: of the cache, in all layers together.
    """

    perplexity: float
    kl: float
    bytes_per_token: float


@dataclass(frozen=True)
class Calibration:
    """How precisions were chosen on a text, with what it takes to choose them again.

    Attributes:
        text: where it comes from, as JSON values; in some older files a name.
        passages: tokens of each passage of it.
        target: what the plan had to meet, by the option's name; empty for the default.
        precisions: those to choose from.
        harms: by layer and precision, nats a token by which it changes the output.
        predicted_kl: by layer, the harm of the precision that was chosen.
        measured_kl: by layer, the same as measured.
        outputs: of the whole model by the name of its KV cache, ``plan`` for the plan's.
    """

    text: dict[str, Any] | str
    passages: tuple[int, ...]
    target: dict[str, float]
    precisions: tuple[LayerPrecision, ...]
    harms: tuple[tuple[float, ...], ...]
    predicted_kl: tuple[float, ...]
    measured_kl: tuple[float, ...]
    outputs: dict[str, CacheOutput]

    def to_dict(self) -> dict[str, Any]:
        """The calibration as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Calibration:
        """Rebuild what ``to_dict`` wrote; KeyError, TypeError, AttributeError for anything else."""
        body = {**stored}
        for name in ("passages", "predicted_kl", "measured_kl"):
            body[name] = _numbers(body[name], least=_LEAST_KL)
        body["precisions"] = tuple(LayerPrecision(**one) for one in body["precisions"])
        body["harms"] = tuple(_numbers(layer, least=_LEAST_KL) for layer in body["harms"])
        outputs = body["outputs"].items()
        body["outputs"] = {name: CacheOutput(**output) for name, output in outputs}
        for output in body["outputs"].values():
            require_numbers(output.perplexity, output.bytes_per_token)
            require_numbers(output.kl, least=_LEAST_KL)
        return cls(**body)


@dataclass(frozen=True)
class ValueBasis:
    """How the basis was found that values are stored in; an estimate knows the method alone.

    Attributes:
        method: that found it.
        text: where the text comes from that it was found on, as JSON values.
        passages: tokens of each passage of it.
        predicted_cost: by layer, of rounding, as a share of what it costs in the checkpoint's own.
    """

    method: str
    text: dict[str, Any] = field(default_factory=dict)
    passages: tuple[int, ...] = ()
    predicted_cost: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The basis as JSON values; what is not known is left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> ValueBasis:
        """Rebuild what ``to_dict`` wrote; TypeError, AttributeError for anything else."""
        lists = {name: _numbers(stored.get(name, ())) for name in ("passages", "predicted_cost")}
        basis = cls(**{**stored, **lists})
        _require_texts(basis.method)
        return basis


@dataclass(frozen=True)
class Measurement:
    """What layer shares or a gate were measured on, and how well the gate does.

    Attributes:
        texts: where they come from, as JSON values by which they can be known again.
        num_passages: of the texts that were measured on.
        num_held: others that were held back, to check on.
        passage_tokens: of each, at most.
        correlation: by layer, of the gate's scores with those it was taught, on what was held back;
            None for a layer with a sliding window, which needs none.
        nats_repeating: at which the model repeats what was held back, nats a token: what it looks
            at while it does is what a gate is learnt from.
        seconds: it took.
    """

    texts: tuple[dict[str, Any], ...]
    num_passages: int = 0
    num_held: int = 0
    passage_tokens: int = 0
    correlation: tuple[float | None, ...] = ()
    nats_repeating: float = 0.0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The measurement as JSON values; what does not apply is left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Measurement:
        """Rebuild what ``to_dict`` wrote; TypeError, AttributeError, KeyError for anything else."""
        texts = tuple({**text} for text in stored["texts"])
        correlation = tuple(stored.get("correlation", ()))
        measurement = cls(**{**stored, "texts": texts, "correlation": correlation})
        require_numbers(*(value for value in correlation if value is not None), least=-1)
        require_numbers(
            measurement.num_passages,
            measurement.num_held,
            measurement.passage_tokens,
            measurement.seconds,
        )
        require_numbers(measurement.nats_repeating, least=_LEAST_KL)
        return measurement


def check_weights(weights: dict[str, Any]) -> None:
    """TypeError for what is not told of weights as NNCF notes it, and their size."""
    _require_texts(weights.get("format", ""), *weights.get("methods", ()))
    require_numbers(weights.get("size_bytes", 0))


def check_by_layer(
    num_layers: int,
    calibration: Calibration | None,
    basis: ValueBasis | None,
    gate: Measurement | None,
) -> None:
    """TypeError for what was measured of other layers than there are."""
    measured: dict[str, tuple[Any, ...]] = {}
    if calibration:
        measured["predicted_kl"] = calibration.predicted_kl
        measured["measured_kl"] = calibration.measured_kl
    if basis and basis.predicted_cost:
        measured["predicted_cost"] = basis.predicted_cost
    if gate and gate.correlation:
        measured["correlation"] = gate.correlation
    for name, values in measured.items():
        if len(values) != num_layers:
            raise TypeError(f"{name} is of {len(values)} layers, and there are {num_layers}")
