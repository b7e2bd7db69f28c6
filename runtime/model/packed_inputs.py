"""One input for the lengths and tables of all layers, divided inside the graph.

An input each would cost the plugin more time in every inference, and Python as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov
from openvino import opset13 as ops

# Of these every layer has its own, of equal size; one table of pages serves all layers.
_SPLIT_INPUTS = ("past_lens", "block_indices_begins", "max_context_len")
_SCALARS = ("max_context_len",)
_SHARED_INPUT = "block_indices"

PER_LAYER_INPUTS = (*_SPLIT_INPUTS, _SHARED_INPUT)
"""What a graph takes for each of its layers until they are packed."""


def pack_inputs(model: ov.Model, layers: range) -> None:
    """Put the inputs ``NAME.N`` of ``layers`` together as ``NAME``.

    Afterwards ``past_lens [layers * seqs]``, ``block_indices_begins [layers * (seqs + 1)]`` and
    ``max_context_len [layers]`` hold one layer's behind the other's, and ``block_indices`` page
    tables of any layers, in which the begins count.

    Args:
        model: part of a paged graph; changed.
        layers: its cache layers.
    """
    parameters = {p.output(0).get_any_name(): p for p in model.get_parameters()}
    for name in _SPLIT_INPUTS:
        packed = add_input(model, name, [-1])
        parts = ops.split(packed, np.int64(0), len(layers)).outputs()
        if name in _SCALARS:
            parts = [ops.squeeze(part, np.int64(0)).output(0) for part in parts]
        _replace(model, parameters, {f"{name}.{n}": o for n, o in zip(layers, parts, strict=True)})
    shared = add_input(model, _SHARED_INPUT, [-1]).output(0)
    _replace(model, parameters, {f"{_SHARED_INPUT}.{n}": shared for n in layers})


def add_input(model: ov.Model, name: str, shape: list[int]) -> ov.Node:
    """A new int32 input of ``model`` called ``name``; -1 in ``shape`` is any size."""
    node = ops.parameter(shape, np.int32, name=name)
    node.output(0).set_names({name})
    model.add_parameters([node])
    return node


def _replace(
    model: ov.Model, parameters: Mapping[str, ov.Node], values: Mapping[str, ov.Output]
) -> None:
    for name, value in values.items():
        for port in parameters[name].output(0).get_target_inputs():
            port.replace_source_output(value)
        model.remove_parameter(parameters[name])
