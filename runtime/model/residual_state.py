"""The residual stream in front of a layer's norm, found from the state behind the norm."""

from __future__ import annotations

import openvino as ov

# Steps of a norm, and of the constants applied behind it.
_OF_A_NORM = {"Multiply", "Divide", "Subtract", "Add", "Convert"}
_WHOLE_NORMS = {"MVN", "RMS", "GroupNormalization"}
_MEANS = {"ReduceMean", "ReduceSum"}


def find_residual_state(state: ov.Output) -> ov.Output:
    """What the norm that gives ``state [tokens, ..., hidden]`` was given, of the same shape.

    A norm divides its input by something that has one number a token. Where nothing is divided
    (the layer has its norms behind its projections), it is ``state`` itself.
    """
    found, here = state, state
    while True:
        node = here.get_node()
        kind = node.get_type_name()
        if kind in _WHOLE_NORMS:
            return node.input_value(0)
        if kind not in _OF_A_NORM:
            return found
        wide = [value for value in node.input_values() if _is_wide(value)]
        narrow = [value for value in node.input_values() if _is_computed_of_a_token(value)]
        if len(wide) != 1:
            return found  # a sum of two streams
        here = wide[0]
        if narrow and kind in ("Multiply", "Divide"):
            return _before_centering(here)


def _before_centering(output: ov.Output) -> ov.Output:
    """What ``output`` was before its mean was taken off, and before it was converted."""
    while True:
        node = output.get_node()
        kind = node.get_type_name()
        centers = kind == "Subtract" and _is_computed_of_a_token(node.input_value(1))
        if not centers and kind != "Convert":
            return output
        output = node.input_value(0)


def _is_wide(output: ov.Output) -> bool:
    return not _is_constant(output) and not _has_one_element(output)


def _is_computed_of_a_token(output: ov.Output) -> bool:
    return not _is_constant(output) and _has_one_element(output)


def _has_one_element(output: ov.Output) -> bool:
    shape = output.get_partial_shape()
    last = shape[len(shape) - 1] if shape.rank.is_static and len(shape) else None
    return last is not None and last.is_static and last.get_length() == 1


def _is_constant(output: ov.Output) -> bool:
    node = output.get_node()
    while node.get_type_name() in ("Convert", "Reshape", "Multiply", "Subtract"):
        if not all(_is_constant(value) for value in node.input_values()[1:]):
            return False
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")
