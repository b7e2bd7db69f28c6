"""Weights of kinds that openvino_genai's reader does not know, in a copy that it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from ov_kvcrush.export.gguf.model_file import GgufModel, Tensor
from ov_kvcrush.export.gguf.readable import FLOATS, READ_KINDS

# Held as f32 at a time.
_CHUNK_WEIGHTS = 1 << 24

_Q8_0_WEIGHTS, _ = GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0]
_, _Q5_0_BYTES = GGML_QUANT_SIZES[GGMLQuantizationType.Q5_0]

# Values of general.file_type by which the reader expects no scales, and of a file in Q8_0.
_UNSCALED_FILES, _F16_FILE, _Q8_0_FILE = (0, 1), 1, 7
_ALIGNMENT = "general.alignment"


def read_kind(tensor: Tensor) -> str:
    """The kind in which the reader is given ``tensor``: its own where that is known to it.

    Nothing is lost of BF16 within F16's range, of Q5_0, and at most 0.4 % of the largest of 32
    weights of any other.
    """
    if len(tensor.shape) == 1:
        return "F32"
    if tensor.kind in READ_KINDS:
        return tensor.kind
    by_blocks = tensor.shape[-1] % _Q8_0_WEIGHTS == 0
    return "Q8_0" if by_blocks and tensor.kind not in FLOATS else "F16"


def kinds_stored_anew(model: GgufModel) -> dict[str, str]:
    """Kinds of matrices that the reader does not know, and the kinds it is given instead."""
    return {
        tensor.kind: read_kind(tensor)
        for tensor in model.tensors.values()
        if len(tensor.shape) > 1 and read_kind(tensor) != tensor.kind
    }


def is_read_as_it_is(model: GgufModel) -> bool:
    """Whether the reader is given the file itself, and not a copy."""
    same_kinds = all(read_kind(one) == one.kind for one in model.tensors.values())
    return same_kinds and _file_type(model) is None


def bytes_stored_anew(model: GgufModel) -> int:
    """Of the copy; 0 where none is needed."""
    if is_read_as_it_is(model):
        return 0
    return sum(_num_bytes(one.shape, read_kind(one)) for one in model.tensors.values())


def store_anew(model: GgufModel, path: Path, advance: Callable[[float], None]) -> None:
    """Write a copy of ``model`` as one file to ``path``, with all weights in kinds that are read.

    Args:
        advance: is told the share that is written.

    Raises:
        OSError: the disk does not allow it.
    """
    writer = GGUFWriter(path, model.architecture)
    _copy_fields(model, writer)
    for tensor in model.tensors.values():
        kind = GGMLQuantizationType[read_kind(tensor)]
        num_bytes = _num_bytes(tensor.shape, kind.name)
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), num_bytes, raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total = sum(tensor.size for tensor in model.tensors.values())
    done = 0
    for tensor in model.tensors.values():
        writer.write_tensor_data(_as_kind(tensor, read_kind(tensor)))
        done += tensor.size
        advance(done / total)
    writer.close()


def weights_of(tensor: Tensor) -> NDArray[np.float32]:
    """The weights as they are meant, of ``tensor.shape``; all of them in memory."""
    kind = GGMLQuantizationType[tensor.kind]
    return np.asarray(dequantize(tensor.data, kind), np.float32).reshape(tensor.shape)


def _file_type(model: GgufModel) -> int | None:
    """What general.file_type has to be for the reader; None where it is that, or may be."""
    scaled = any(read_kind(one) not in FLOATS for one in model.tensors.values())
    if scaled == (model.number("general.file_type") not in _UNSCALED_FILES):
        return None
    return _Q8_0_FILE if scaled else _F16_FILE


def _copy_fields(model: GgufModel, writer: GGUFWriter) -> None:
    changed = {"general.file_type": _file_type(model)}
    for name, field in model.fields.items():
        if name.startswith(("GGUF.", "split.")) or name in ("general.architecture", _ALIGNMENT):
            continue
        value = changed.get(name)
        value = field.contents() if value is None else value
        is_list = len(field.types) > 1
        writer.add_key_value(name, value, field.types[0], field.types[-1] if is_list else None)


def _num_bytes(shape: tuple[int, ...], kind: str) -> int:
    weights, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return int(np.prod(shape, dtype=np.int64)) // weights * num_bytes


def _as_kind(tensor: Tensor, kind: str) -> NDArray[np.generic]:
    if kind == tensor.kind:
        return np.ascontiguousarray(tensor.data)
    parts = [
        _q5_0_as_q8_0(part)
        if (tensor.kind, kind) == ("Q5_0", "Q8_0")
        else _through_floats(part, tensor.kind, kind)
        for part in _row_chunks(tensor)
    ]
    return np.concatenate(parts)


def _row_chunks(tensor: Tensor) -> Iterator[NDArray[np.uint8]]:
    rows = max(1, _CHUNK_WEIGHTS * len(tensor.data) // tensor.size)
    for begin in range(0, len(tensor.data), rows):
        yield tensor.data[begin : begin + rows]


def _through_floats(data: NDArray[np.uint8], kind: str, wanted: str) -> NDArray[np.generic]:
    floats = np.asarray(dequantize(data, GGMLQuantizationType[kind]), np.float32)
    if wanted == "F32":
        return floats
    if wanted == "F16":
        limit = np.finfo(np.float16).max
        return np.clip(floats, -limit, limit).astype(np.float16)
    stored: NDArray[np.generic] = quantize(floats, GGMLQuantizationType[wanted])
    return stored


def _q5_0_as_q8_0(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blocks of Q5_0, ``[rows, bytes]``, as Q8_0: the same scales and numbers, in more bits."""
    blocks = data.reshape(-1, _Q5_0_BYTES)
    scales, fifth_bits, low_bits = blocks[:, :2], blocks[:, 2:6], blocks[:, 6:]
    numbers = np.concatenate([low_bits & 15, low_bits >> 4], axis=1)
    numbers |= np.unpackbits(fifth_bits, axis=1, bitorder="little") << 4
    numbers -= 16  # below 0 around the end of the byte, as its sign is read
    return np.concatenate([scales, numbers], axis=1).reshape(len(data), -1)
