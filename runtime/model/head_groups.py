"""The attention of a layer split into groups of KV heads, each over a cache of its own.

Nothing is computed otherwise: queries, keys and values are split between nodes, whose outputs are
put together again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino._pyopenvino.op import _PagedAttentionExtension

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.pages.cache_layer import HeadGroups

# Inputs of a PagedAttentionExtension node, by position.
_QUERY, _KEY, _VALUE, _KEY_CACHE, _VALUE_CACHE, _BLOCKS = 0, 1, 2, 3, 4, 7
_OWN = {_KEY_CACHE: "key_cache", _VALUE_CACHE: "value_cache", _BLOCKS: "block_indices"}
_FIRST_SHARED = 5


def is_divisible(attention: ov.Node) -> bool:
    """Whether queries, keys and values alone are by head.

    All else that a node takes is then a count, a scale, or has no elements.
    """
    shapes = (
        attention.input_value(position).get_partial_shape()
        for position in range(_FIRST_SHARED, attention.get_input_size())
    )
    return all(shape.is_dynamic or np.prod(shape.to_shape()) <= 1 for shape in shapes)


def divide_attentions(
    model: ov.Model,
    attentions: Sequence[ov.Node],
    layers: Sequence[LayerGeometry],
    groups: HeadGroups,
) -> tuple[list[ov.Node], list[ov.Output]]:
    """Give each of ``groups`` an attention node, and its cache the number it has among them.

    Args:
        model: paged graph; changed.
        attentions: of each layer, in order.
        layers: geometry by layer.
        groups: by layer, of its KV heads.

    Returns:
        The nodes by cache layer, and by layer the queries ``[tokens, Hq * D]``, in the order of the
        groups.
    """
    nodes: list[ov.Node] = []
    queries: list[ov.Output] = []
    for attention, layer, members in zip(attentions, layers, groups, strict=True):
        order = list(chain.from_iterable(members))
        width = layer.num_query_heads // layer.num_kv_heads * layer.key_head_size
        queries.append(_in_order(attention.input_value(_QUERY), order, width))
        if len(members) > 1:
            nodes += _divided(model, attention, queries[-1], layer, members, len(nodes))
        else:
            _renumber(attention, len(nodes))
            nodes.append(attention)
    return nodes, queries


def _divided(
    model: ov.Model,
    attention: ov.Node,
    queries: ov.Output,
    layer: LayerGeometry,
    groups: Sequence[Sequence[int]],
    first: int,
) -> list[ov.Node]:
    """Nodes for the ``groups`` of one layer, whose caches are numbered from ``first`` on."""
    sizes = [len(group) for group in groups]
    order = list(chain.from_iterable(groups))
    shared = layer.num_query_heads // layer.num_kv_heads
    size = layer.key_head_size
    keys = _in_order(attention.input_value(_KEY), order, size)
    values = _in_order(attention.input_value(_VALUE), order, layer.value_head_size)
    parts = [
        _split(queries, [n * shared * size for n in sizes]),
        _split(keys, [n * size for n in sizes]),
        _split(values, [n * layer.value_head_size for n in sizes]),
    ]
    nodes = []
    for place, own in enumerate(zip(*parts, strict=True)):
        shared_inputs = range(len(own), attention.get_input_size())
        inputs = [*own, *(attention.input_value(position) for position in shared_inputs)]
        for position in _OWN:
            inputs[position] = _like(model, inputs[position]).output(0)
        node = _PagedAttentionExtension(inputs)
        info, had = node.get_rt_info(), attention.get_rt_info()
        for name in ("k_head_size", "v_head_size"):
            info[name] = int(had[name].astype(int))
        for name in ("num_k_heads", "num_v_heads"):
            info[name] = sizes[place]
        node.set_friendly_name(f"{attention.get_friendly_name()}.{place}")
        _renumber(node, first + place)
        nodes.append(node)
    outputs = ops.concat([node.output(0) for node in nodes], 1)
    back = _in_order(outputs.output(0), list(np.argsort(order)), shared * layer.value_head_size)
    gone = [attention.input_value(position).get_node() for position in _OWN]
    for port in attention.output(0).get_target_inputs():
        port.replace_source_output(back)
    # An input that only a node without a reader takes would never be given a type.
    for parameter in gone:
        model.remove_parameter(parameter)
    for port in attention.inputs():
        if port.get_source_output().get_node().get_type_name() == "Parameter":
            port.replace_source_output(ops.constant(np.int32(0)).output(0))
    return nodes


def _in_order(heads: ov.Output, order: list[int], size: int) -> ov.Output:
    """``heads [tokens, H * size]`` put in ``order``; as they are where they lie so already."""
    if order == sorted(order):
        return heads
    apart = ops.reshape(heads, np.array([0, len(order), size]), True)
    gathered = ops.gather(apart, np.array(order, np.int32), np.int32(1))
    return ops.reshape(gathered, np.array([0, -1]), True).output(0)


def _split(heads: ov.Output, sizes: list[int]) -> list[ov.Output]:
    split = ops.variadic_split(heads, np.int64(1), np.array(sizes))
    return list(split.outputs())


def _like(model: ov.Model, output: ov.Output) -> ov.Node:
    """A new Parameter of the type and shape of ``output``."""
    parameter = ov.op.Parameter(output.get_element_type(), output.get_partial_shape())
    model.add_parameters([parameter])
    return parameter


def _renumber(attention: ov.Node, number: int) -> None:
    for position, name in _OWN.items():
        attention.input_value(position).set_names({f"{name}.{number}"})
