"""Groups of four-bit weights that share a scale and a least value, as Q4_1 and Q4_K store them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from ov_kvcrush.export.gguf.description import geometry
from ov_kvcrush.export.gguf.model_file import GgufModel, Tensor

T = TypeVar("T", bound=np.generic)

_GROUP = 32


@dataclass(frozen=True)
class Groups:
    """A matrix whose weights are ``scale · number + least``, by groups of 32 in a row.

    Attributes:
        numbers: two a byte, the first one in the low half: ``[rows, columns / 2]``.
        scales, least: ``[rows, columns / 32]``.
    """

    numbers: NDArray[np.uint8]
    scales: NDArray[np.float32]
    least: NDArray[np.float32]


def has_least(tensor: Tensor) -> bool:
    """Whether ``tensor`` is stored so, and not by scale alone."""
    return tensor.kind in ("Q4_1", "Q4_K")


def groups_of(model: GgufModel, tensor: Tensor) -> Groups:
    """The groups of ``tensor``, its rows in the order that transformers and OpenVINO have them.

    llama.cpp turns elements of queries and keys in neighbouring pairs, the others those that are
    half a head apart: files of Llama have the rows of these two matrices in pairs.
    """
    kind = GGMLQuantizationType[tensor.kind]
    blocks = tensor.data.reshape(-1, GGML_QUANT_SIZES[kind][1])
    groups = _of_q4_1(blocks) if tensor.kind == "Q4_1" else _of_q4_k(blocks)
    rows = tensor.shape[0]
    numbers = groups.numbers.reshape(rows, -1)
    scales, least = groups.scales.reshape(rows, -1), groups.least.reshape(rows, -1)
    if model.architecture == "llama" and tensor.name.split(".")[-2] in ("attn_q", "attn_k"):
        head = geometry(model)[0].key_head_size
        numbers = _halves_from_pairs(numbers, head)
        scales, least = _halves_from_pairs(scales, head), _halves_from_pairs(least, head)
    return Groups(numbers, scales, least)


def _of_q4_1(blocks: NDArray[np.uint8]) -> Groups:
    """Blocks ``[n, 20]``: scale and least in f16, 32 numbers."""
    scales, least = _halves(blocks[:, :4])
    return Groups(_packed_in_order(blocks[:, 4:]), scales[:, None], least[:, None])


def _of_q4_k(blocks: NDArray[np.uint8]) -> Groups:
    """Blocks ``[n, 144]``: a scale of scales and of least values in f16, these in six bits, 256
    numbers."""
    scale, least = _halves(blocks[:, :4])
    low, high, rest = (blocks[:, begin : begin + 4] for begin in (4, 8, 12))
    scales = np.concatenate([low & 63, (rest & 15) | (low >> 6 << 4)], axis=1)
    offsets = np.concatenate([high & 63, (rest >> 4) | (high >> 6 << 4)], axis=1)
    numbers = blocks[:, 16:].reshape(-1, _GROUP)
    return Groups(
        _packed_in_order(numbers),
        scale[:, None] * scales.astype(np.float32),
        -least[:, None] * offsets.astype(np.float32),
    )


def _halves(data: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    both = data.copy().view(np.float16).astype(np.float32)
    return both[:, 0], both[:, 1]


def _packed_in_order(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Numbers stored as all low halves before all high ones, packed one after another."""
    numbers = np.concatenate([data & 15, data >> 4], axis=1)
    packed: NDArray[np.uint8] = numbers[:, ::2] | (numbers[:, 1::2] << 4)
    return packed


def _halves_from_pairs(rows: NDArray[T], head: int) -> NDArray[T]:
    pairs = rows.reshape(-1, head // 2, 2, rows.shape[1])
    halves: NDArray[T] = pairs.transpose(0, 2, 1, 3).reshape(rows.shape)
    return halves
