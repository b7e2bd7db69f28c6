"""How fast this CPU multiplies with weights in each format: what a format gives and costs here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.plugin.core import core
from ov_kvcrush.runtime.plugin.properties import INFERENCE_PRECISION

FORMATS = ("int4", "int8", "fp16")
"""As export's ``--weight-format`` has them, Optimum's default of each: int8 by rows, int4 in groups
of 128, both with zero points."""

_GROUP = 128
_PROMPT_TOKENS = 256
# More than processors cache, so that memory is read, as it is in a model.
_MOST_BYTES = 64e6
_WIDENING = 4
_LEAST_PASSES, _SECONDS = 3, 0.1


@dataclass(frozen=True)
class WeightSpeed:
    """Seconds of a chain of products like a model's.

    Attributes:
        token: with one token, as in decoding.
        prompt: with 256, as in prompts.
    """

    token: float
    prompt: float


def measure_weight_speeds(
    layers: Sequence[LayerGeometry], weight_bytes: float
) -> dict[str, WeightSpeed]:
    """Speeds by format of products as wide as a model's; takes a few seconds.

    Decoding is measured in what ``decode_precision="auto"`` decodes in: compressed weights in f32.

    Args:
        layers: geometry of the model's.
        weight_bytes: of the model; a small one is measured with as few.
    """
    widest = max(layer.num_query_heads * layer.key_head_size for layer in layers)
    width = max(_GROUP, widest // _GROUP * _GROUP)
    pair = 2 * _WIDENING * width * width
    num_pairs = max(1, round(min(_MOST_BYTES, weight_bytes) / pair))
    return {name: _measure(name, width, num_pairs) for name in FORMATS}


def _measure(name: str, width: int, num_pairs: int) -> WeightSpeed:
    states = ops.parameter([-1, width], np.float32)
    found = states.output(0)
    random = np.random.default_rng(0)
    for _ in range(num_pairs):
        for rows, columns in ((_WIDENING * width, width), (width, _WIDENING * width)):
            weights = _WEIGHTS[name](random, rows, columns)
            found = ops.matmul(found, weights, False, True).output(0)
    model = ov.Model([ops.result(found)], [states])
    decoding = {} if name == "fp16" else {INFERENCE_PRECISION: "f32"}
    return WeightSpeed(
        token=_seconds(model, width, 1, decoding),
        prompt=_seconds(model, width, _PROMPT_TOKENS, {}),
    )


def _seconds(model: ov.Model, width: int, num_tokens: int, properties: dict[str, str]) -> float:
    """Median of some inferences, after two that do not count."""
    request = core().compile_model(model.clone(), "CPU", properties).create_infer_request()
    states = np.random.default_rng(1).standard_normal((num_tokens, width), np.float32)
    times: list[float] = []
    while len(times) < 2 + _LEAST_PASSES or sum(times) < _SECONDS:
        begun = time.perf_counter()
        request.infer([states])
        times.append(time.perf_counter() - begun)
    return median(times[2:])


def _in_four_bits(random: np.random.Generator, rows: int, columns: int) -> ov.Node:
    shape = [rows, columns // _GROUP, _GROUP]
    weights = _four_bits(random, shape)
    zeros = _four_bits(random, [*shape[:2], 1])
    restored = _restore(weights, zeros, _scales(random, [*shape[:2], 1]))
    whole = ops.reshape(restored, ops.constant(np.array([rows, columns], np.int32)), False)
    return ops.convert(whole, "f32")


def _in_eight_bits(random: np.random.Generator, rows: int, columns: int) -> ov.Node:
    weights = ops.constant(_bytes(random, rows * columns).reshape(rows, columns))
    zeros = ops.constant(_bytes(random, rows).reshape(rows, 1))
    return ops.convert(_restore(weights, zeros, _scales(random, [rows, 1])), "f32")


def _in_halves(random: np.random.Generator, rows: int, columns: int) -> ov.Node:
    return ops.convert(ops.constant(_scales(random, [rows, columns])), "f32")


_WEIGHTS = {"int4": _in_four_bits, "int8": _in_eight_bits, "fp16": _in_halves}


def _restore(weights: ov.Node, zeros: ov.Node, scales: NDArray[np.float16]) -> ov.Node:
    centred = ops.subtract(ops.convert(weights, "f16"), ops.convert(zeros, "f16"))
    return ops.multiply(centred, ops.constant(scales))


def _four_bits(random: np.random.Generator, shape: list[int]) -> ov.Node:
    packed = _bytes(random, -(-int(np.prod(shape)) // 2))
    tensor = ov.Tensor(packed, ov.Shape(shape), ov.Type.u4)
    return ov.op.Constant(tensor, shared_memory=False)  # nobody else holds the packed bytes


def _bytes(random: np.random.Generator, count: int) -> NDArray[np.uint8]:
    return random.integers(0, 256, count, np.uint8)


def _scales(random: np.random.Generator, shape: list[int]) -> NDArray[np.float16]:
    return (1e-3 * random.standard_normal(shape, np.float32)).astype(np.float16)
