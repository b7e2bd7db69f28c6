"""Rows whose logits are wanted, chosen as early in a graph as its steps treat each row alone.

Of a chunk that reads a prompt one row is wanted, or none. Behind the last attention nothing looks
from one row to another, so there the last layer need not be computed for any other: neither its
output projection nor its feed-forward part, three quarters of a layer.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

_ELEMENTWISE = {
    "Abs",
    "Add",
    "Clamp",
    "Convert",
    "Divide",
    "Elu",
    "Exp",
    "Gelu",
    "HSwish",
    "Maximum",
    "Minimum",
    "Multiply",
    "Negative",
    "Power",
    "Relu",
    "Sigmoid",
    "Sqrt",
    "Subtract",
    "Swish",
    "Tanh",
}
_REDUCTIONS = {"ReduceL2", "ReduceMean", "ReduceSum"}

# Of these the second input says what is done, and never has rows.
_SPLITS = {"Split", "VariadicSplit"}


def choose_rows_early(wanted: ov.Output, rows: ov.Node) -> ov.Output:
    """``wanted`` for ``rows`` alone; the steps that only it depends on compute no others.

    Args:
        wanted: ``[tokens, ...]``; the graph before it is changed.
        rows: ``[rows]``, numbers of tokens.
    """
    alone = _steps_by_row(wanted)
    gathered: dict[tuple[str, int], ov.Output] = {}

    def chosen(output: ov.Output) -> ov.Output:
        key = output.get_node().get_name(), output.get_index()
        if key not in gathered:
            gather = ops.gather(output, rows, ops.constant(np.int32(0)))
            gathered[key] = gather.output(0)
        return gathered[key]

    # All sources are found before any is replaced: what is inserted is not to be looked at.
    sources = [
        (port, port.get_source_output())
        for node in alone.values()
        for port in _row_inputs(node)
        if port.get_source_output().get_node().get_name() not in alone
    ]
    for port, source in sources:
        port.replace_source_output(chosen(source))
    return wanted if alone else chosen(wanted)


def _steps_by_row(wanted: ov.Output) -> dict[str, ov.Node]:
    """By name, the nodes from which ``wanted`` alone is computed, and each row from its own."""
    alone: dict[str, ov.Node] = {}
    waiting = [wanted.get_node()]
    while waiting:
        node = waiting.pop()
        name = node.get_name()
        # It is looked at again with each of those it is read by: the last of them lets it join.
        if name in alone or not (_is_by_row(node) and _is_read_by(node, alone, wanted)):
            continue
        alone[name] = node
        waiting += [port.get_source_output().get_node() for port in _row_inputs(node)]
    return alone


def _is_read_by(node: ov.Node, readers: dict[str, ov.Node], wanted: ov.Output) -> bool:
    """Whether all that read ``node`` are among ``readers``, but for the one that reads ``wanted``.

    ``wanted`` has a reader that is not part of the search; it is told of it by its caller.
    """
    if node.get_name() == wanted.get_node().get_name():
        return len(wanted.get_target_inputs()) == 1 and len(node.outputs()) == 1
    return all(
        port.get_node().get_name() in readers
        for output in node.outputs()
        for port in output.get_target_inputs()
    )


def _is_by_row(node: ov.Node) -> bool:
    """Whether each row that ``node`` gives is computed from the same row of what it reads."""
    kind = node.get_type_name()
    rank = node.output(0).get_partial_shape().rank
    if rank.is_dynamic or rank.get_length() < 2 or not all(map(_has_rows, node.outputs())):
        return False
    size = rank.get_length()
    inputs = node.input_values()
    if kind in _ELEMENTWISE:
        return all(_is_constant(one) or _fits(one, size) for one in inputs)
    if kind == "MatMul":
        transposed = node.get_attributes()["transpose_a"]
        return not transposed and _fits(inputs[0], size) and _is_matrix(inputs[1])
    if kind in _REDUCTIONS or kind in _SPLITS:
        axes = _numbers(inputs[1])
        return _fits(inputs[0], size) and axes is not None and all(axis % size for axis in axes)
    return False


def _row_inputs(node: ov.Node) -> list[ov.Input]:
    ports: list[ov.Input] = node.inputs()
    return [port for port in ports if _has_rows(port.get_source_output())]


def _has_rows(output: ov.Output) -> bool:
    """Whether the number of tokens decides its first dimension: what else does is known before."""
    shape = output.get_partial_shape()
    return bool(shape.rank.is_static and len(shape) and shape[0].is_dynamic)


def _fits(output: ov.Output, size: int) -> bool:
    """Whether it has rows in the same place as what has ``size`` dimensions."""
    return _has_rows(output) and len(output.get_partial_shape()) == size


def _is_constant(output: ov.Output) -> bool:
    """Whether its shape is known, as that of weights is, packed or not."""
    return bool(output.get_partial_shape().is_static)


def _is_matrix(output: ov.Output) -> bool:
    return _is_constant(output) and len(output.get_partial_shape()) == 2


def _numbers(output: ov.Output) -> list[int] | None:
    node = output.get_node()
    if node.get_type_name() != "Constant":
        return None
    numbers: list[int] = np.atleast_1d(node.get_data()).tolist()
    return numbers
