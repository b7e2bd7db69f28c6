"""What openvino_genai's reader rounds of a GGUF file, set right in the IR from the file itself.

Weights in Q4_1 and Q4_K are ``scale · number + least``. The IR has ``scale · (number - zero)`` for
them, and the reader rounds ``zero`` to a whole number: for SmolLM2 that is 0.2 nats a token. The
plugin computes as well with zeros that are fractions. The frequencies of positions are in f16 where
the weights are, which is up to 2.4 radians at token 10,000; and of positions that are stretched the
reader knows nothing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.gguf.description import head_size, main_kind
from ov_kvcrush.export.gguf.groups import Groups, groups_of, has_least
from ov_kvcrush.export.gguf.model_file import GgufModel
from ov_kvcrush.export.gguf.stored_anew import weights_of
from ov_kvcrush.model_folder import GRAPH_FILE, WEIGHTS_FILE

# Where a group's weights hardly differ, zero is far away and f16 too coarse for it: from here on
# the group's scale is made larger, which moves no weight by more than 1.5 %.
_FARTHEST_ZERO = 1024
# Of keys and values repeated for query heads: [batch, KV heads, repetitions, tokens, head size].
_TOKENS_AXIS = 3
_INSTALL = "Install the openvino-genai release that ov-kvcrush names in its dependencies."


def correct(model: GgufModel, folder: Path) -> None:
    """Set right the IR in ``folder`` that the reader made of ``model``.

    Raises:
        ExportError: the IR is not as the reader of this release makes it.
    """
    graph = ov.Core().read_model(folder / GRAPH_FILE)
    _correct_frequencies(graph, frequencies(model))
    _correct_zeros(graph, model)
    _correct_repetitions(graph)
    for name, value in _notes(model).items():
        graph.set_rt_info(value, ["gguf", name])
    ov.save_model(graph, folder / f"new_{GRAPH_FILE}", compress_to_fp16=False)
    del graph  # which has the old weights mapped
    for name in (GRAPH_FILE, WEIGHTS_FILE):
        os.replace(folder / f"new_{name}", folder / name)


def _notes(model: GgufModel) -> dict[str, str]:
    """What :mod:`ov_kvcrush.export.ir` reads of where the weights come from."""
    return {
        "file": model.path.name,
        "format": main_kind(model),
        "gguf_version": version("gguf"),
        "openvino_genai_version": version("openvino-genai"),
    }


def frequencies(model: GgufModel) -> NDArray[np.float32]:
    """Radians by which a token turns each pair of elements of a head: ``[head size / 2]``."""
    size = head_size(model)
    base = model.real(model.named("rope.freq_base"), 10_000.0)
    turns = base ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    if model.text(model.named("rope.scaling.type")) == "linear":
        turns /= model.real(model.named("rope.scaling.factor")) or 1.0
    if stretched := model.tensors.get("rope_freqs.weight"):
        turns /= weights_of(stretched)
    return turns.astype(np.float32)


def _correct_frequencies(graph: ov.Model, turns: NDArray[np.float32]) -> None:
    shape = ov.PartialShape([1, len(turns), 1])
    found = [
        node
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "Broadcast" and node.input_value(0).get_partial_shape() == shape
    ]
    if len(found) != 1:
        raise _unknown_graph("the frequencies of its positions are not found")
    exact = ops.constant(turns.reshape(1, -1, 1))
    found[0].input(0).replace_source_output(exact.output(0))


def _correct_repetitions(graph: ov.Model) -> None:
    """Of keys and values, for the query heads that share them: the reader says, of 0 tokens.

    Nobody minds where the plugin fuses it with attention, as it does unless it is looked into.
    """
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Broadcast" or len(node.get_output_partial_shape(0)) != 5:
            continue
        sizes = node.input_value(1).get_node()
        if sizes.get_type_name() == "Concat" and sizes.get_input_size() == 5:
            one = ops.constant(np.ones(1, np.int64))
            sizes.input(_TOKENS_AXIS).replace_source_output(one.output(0))


def _correct_zeros(graph: ov.Model, model: GgufModel) -> None:
    wanted = defaultdict(list)
    for tensor in filter(has_least, model.tensors.values()):
        groups = groups_of(model, tensor)
        wanted[_key(groups.numbers)].append(groups)
    num_wanted = sum(map(len, wanted.values()))
    num_corrected = 0
    for subtract, multiply, numbers in _four_bit_weights(graph):
        for groups in wanted.get(_key(numbers), []):
            if np.array_equal(numbers, groups.numbers):
                _set_zeros(subtract, multiply, groups)
                num_corrected += 1
                break
    if num_corrected != num_wanted:
        missing = num_wanted - num_corrected
        raise _unknown_graph(f"{missing} of {num_wanted} matrices are not found")


def _four_bit_weights(graph: ov.Model) -> Iterator[tuple[Any, Any, NDArray[np.uint8]]]:
    """Subtraction of the zeros, multiplication with the scales, and numbers ``[rows, bytes]``."""
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Subtract":
            continue
        convert = node.input_value(0).get_node()
        stored = convert.input_value(0).get_node() if convert.get_input_size() else convert
        if stored.get_type_name() == "Constant" and stored.get_element_type() == ov.Type.u4:
            (user,) = node.output(0).get_target_inputs()
            rows = stored.get_output_shape(0)[0]
            yield node, user.get_node(), stored.data.reshape(rows, -1)


def _set_zeros(subtract: Any, multiply: Any, groups: Groups) -> None:
    shape = list(multiply.input_value(1).get_shape())
    scales = groups.scales.astype(np.float16)
    far = np.abs(groups.least) > _FARTHEST_ZERO * scales.astype(np.float32)
    if far.any():
        scales = np.where(far, np.abs(groups.least) / _FARTHEST_ZERO, scales).astype(np.float16)
        multiply.input(1).replace_source_output(ops.constant(scales.reshape(shape)).output(0))
    used = scales.astype(np.float32)
    zeros = np.divide(-groups.least, used, out=np.zeros_like(used), where=used != 0)
    stored = ops.constant(zeros.astype(np.float16).reshape(shape))
    subtract.input(1).replace_source_output(stored.output(0))


def _key(numbers: NDArray[np.uint8]) -> tuple[int, bytes]:
    return numbers.size, numbers[0].tobytes()


def _unknown_graph(reason: str) -> ExportError:
    return ExportError(
        f"OpenVINO's GGUF reader made another model than expected: {reason}", _INSTALL
    )
