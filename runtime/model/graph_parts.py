"""A paged graph split between layers, where one tensor carries all from one part to the next.

The plugin has one type for the keys and one for the values of all layers of a compiled model. Parts
of a graph, compiled one by one, have types of their own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import openvino as ov
from openvino import opset13 as ops

from ov_kvcrush.errors import UnsupportedError
from ov_kvcrush.runtime.model.packed_inputs import pack_inputs
from ov_kvcrush.runtime.model.paged_graph import LAYER_OUTPUTS, PagedGraph, attention_nodes
from ov_kvcrush.runtime.pages.cache_layer import CacheLayer

# Not to be taken for tensors of the model's own.
HIDDEN_STATES = "kvcrush.hidden_states"
"""Name of the input that takes what the part before gives."""
_PASSED_ON = "kvcrush.passed_on"


@dataclass(frozen=True)
class GraphPart:
    """Consecutive layers of a paged graph.

    Attributes:
        model: their graph, with the inputs and outputs of the whole that belong to them. All parts
            but the first also take ``HIDDEN_STATES``, all but the last give it as ``passed_on``.
        layers: numbers of the cache layers.
        cache_layers: what heads these hold.
        model_layers: numbers of the layers that they belong to.
        passed_on: name of the output for the next part; None for the last.
    """

    model: ov.Model
    layers: range
    cache_layers: tuple[CacheLayer, ...]
    model_layers: range
    passed_on: str | None


def split_graph(
    graph: PagedGraph, firsts: Sequence[int], passed_as: ov.Type = ov.Type.f32
) -> list[GraphPart]:
    """Split ``graph`` in front of the layers ``firsts``; it is used up.

    Args:
        graph: whole.
        firsts: numbers of the model's layers that begin a part, ascending, without the 0.
        passed_as: type of what one part gives the next. Where the plugin computes in bf16, bf16:
            it would compute the sums of the residual stream in f32 behind an input in f32.

    Raises:
        UnsupportedError: between two layers more than one tensor is passed on.
    """
    parts = list(_parts(graph, firsts, passed_as))
    for part in parts:
        pack_inputs(part.model, part.layers)
    return parts


def _parts(graph: PagedGraph, firsts: Sequence[int], passed_as: ov.Type) -> Iterator[GraphPart]:
    model_layers = [layer.layer for layer in graph.cache_layers]
    bounds = [0, *firsts, model_layers[-1] + 1]
    cached = [bisect_left(model_layers, bound) for bound in bounds]
    if not firsts:
        yield GraphPart(graph.model, range(*cached), graph.cache_layers, range(*bounds), None)
        return
    attentions = attention_nodes(graph.model)
    # All are found before any is made: a joint takes the paths from the graph by which others are.
    joints = [
        _find_joint(graph.model, attentions[:place], attentions[place:], first)
        for first, place in zip(firsts, cached[1:-1], strict=True)
    ]
    results: dict[int | None, list[ov.Node]] = {}
    for node in graph.model.get_results():
        results.setdefault(_own_layer(node), []).append(node)
    for joint in joints:
        taken = ops.parameter(joint.get_partial_shape(), passed_as)
        taken.output(0).set_names({HIDDEN_STATES})
        readers = joint.get_target_inputs()
        restored = ops.convert(taken, joint.get_element_type())
        for port in readers:
            port.replace_source_output(restored.output(0))
    for index, (layers, own) in enumerate(zip(pairwise(cached), pairwise(bounds), strict=True)):
        outputs = [node for n in range(*own) for node in results[n]]
        if index < len(joints):
            passed_on = _PASSED_ON
            given = ops.convert(joints[index], passed_as)
            given.output(0).set_names({passed_on})
            outputs.append(ops.result(given))
        else:
            passed_on = None
            outputs += results[None]
        needed = [n for n in _upstream(outputs) if n.get_type_name() == "Parameter"]
        own_layers = graph.cache_layers[slice(*layers)]
        model = ov.Model(outputs, needed)
        yield GraphPart(model, range(*layers), own_layers, range(*own), passed_on)


def _find_joint(
    model: ov.Model, before: Sequence[ov.Node], behind: Sequence[ov.Node], first: int
) -> ov.Output:
    """The one tensor through which layers before ``first`` reach it and all that comes later.

    In a decoder that is its residual stream. What depends on the model's inputs alone, such as the
    rotations of RoPE, does not count: each part computes it anew.

    Args:
        model: paged graph.
        before: attentions of the layers before it.
        behind: its own and those of all later layers.
        first: its number.
    """
    logits = model.output("logits").get_node()
    later = {node.get_name() for node in (*behind, logits)}
    earlier = [output for node in before for output in node.outputs()]
    upstream = {node.get_name() for node in _upstream(behind[:1])}
    downstream = _downstream(before[-1].outputs())
    for node in model.get_ordered_ops():
        name = node.get_name()
        between = name in upstream and name in downstream and name not in later
        if between and not later & _downstream(earlier, around=name):
            (joint,) = node.outputs()
            return joint
    raise UnsupportedError(
        f"layers {first - 1} and {first} cannot have different KV precisions: "
        "more than one tensor goes from one to the other",
        "Give all layers the same: key_cache_precision and value_cache_precision.",
    )


def _own_layer(result: ov.Node) -> int | None:
    """The layer that a result of the whole graph tells something of; None for the logits."""
    for name in result.input_value(0).get_names():
        kind, dot, number = name.partition(".")
        if kind in LAYER_OUTPUTS and dot:
            return int(number)
    return None


def _upstream(nodes: Iterable[ov.Node]) -> list[ov.Node]:
    """``nodes`` and all they are computed from."""
    found: dict[str, ov.Node] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.get_name() not in found:
            found[node.get_name()] = node
            waiting += [value.get_node() for value in node.input_values()]
    return list(found.values())


def _downstream(outputs: Iterable[ov.Output], around: str = "") -> set[str]:
    """Names of the nodes that are computed from ``outputs`` without the node ``around``."""
    found: set[str] = set()
    waiting = list(outputs)
    while waiting:
        for port in waiting.pop().get_target_inputs():
            node = port.get_node()
            if node.get_name() not in found and node.get_name() != around:
                found.add(node.get_name())
                waiting += node.outputs()
    return found
