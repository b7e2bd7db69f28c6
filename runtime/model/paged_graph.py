"""From the IR that Optimum-Intel exports to a paged graph that shows what eviction needs.

Four changes to what the plugin's transformation gives, none of which adds work to a token:

* a layer's KV heads may be divided into groups with a cache each (:mod:`head_groups`);
* every such cache layer has lengths and page tables of its own, so that each may hold other tokens;
* the queries of chosen rows come out (``queries.N``), from which attention per head is computed;
* logits, and what the last layer does behind its attention, are computed for chosen rows only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops
from openvino._offline_transformations import paged_attention_transformation

from ov_kvcrush.errors import ModelError, UnsupportedError, last_line
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.model.head_groups import divide_attentions, is_divisible
from ov_kvcrush.runtime.model.key_state import find_key_states
from ov_kvcrush.runtime.model.output_projection import find_output_projection
from ov_kvcrush.runtime.model.packed_inputs import PER_LAYER_INPUTS, add_input
from ov_kvcrush.runtime.model.residual_state import find_residual_state
from ov_kvcrush.runtime.model.sampled_rows import choose_rows_early
from ov_kvcrush.runtime.pages.cache_layer import CacheLayer, HeadGrouping, cache_layers, undivided
from ov_kvcrush.runtime.plugin.ir_file import read_ir

LAYER_OUTPUTS = ("queries", "states", "residual_norms")

_SHARED_INPUTS = {"input_ids", "position_ids", "subsequence_begins"}

_KIND = "PagedAttentionExtension"
_KEY_CACHE_INPUT = "key_cache."

# Inputs of such a node, by position.
_QUERY, _KEY_CACHE = 0, 3
_PAST_LENS, _BLOCK_BEGINS, _SLIDING_WINDOW, _ALIBI, _MAX_CONTEXT = 5, 8, 10, 11, 12
_SCALE = 9


@dataclass(frozen=True)
class PagedGraph:
    """A paged model ready to be compiled.

    Inputs beside the plugin's own: for each cache layer N ``past_lens.N [seqs]``,
    ``block_indices_begins.N [seqs + 1]``, ``max_context_len.N []``, ``block_indices.N [pages]``;
    ``window_rows [rows]`` and ``sampled_rows [rows]``, both row numbers of the batch.
    Outputs: ``logits [sampled rows, 1, vocab]``, for each layer N of the model
    ``queries.N [window rows, Hq * D]`` (after RoPE, in the order of its cache layers), and where
    they were asked for ``states.N [window rows, 1, hidden]``, what enters the K
    projection, and ``residual_norms.N [window rows, 1]``, the size of the residual stream before
    the norm that gives it.
    """

    model: ov.Model
    cache_layers: tuple[CacheLayer, ...]
    scales: tuple[float, ...]
    """Factor on the products of queries and keys, by cache layer."""
    output_grams: tuple[NDArray[np.float32], ...] = ()
    """By layer of the model ``[Hq, Dv, Dv]``: ``v @ gram @ v`` is the square of what a value ``v``
    adds to the residual stream. Only where states are shown."""

    @property
    def layers(self) -> tuple[LayerGeometry, ...]:
        """Geometry by cache layer."""
        return tuple(layer.geometry for layer in self.cache_layers)


def read_paged_graph(
    folder: str | Path,
    memory_mapped: bool = True,
    shows_states: bool = False,
    grouping: HeadGrouping = undivided,
) -> PagedGraph:
    """Read the IR in ``folder`` and make its paged graph.

    Args:
        folder: exported model.
        memory_mapped: whether its weights stay in their file until they are needed.
        shows_states: whether the states come out that a gate is fitted on.
        grouping: which KV heads share a cache; a layer whose attention cannot be divided keeps one.

    Raises:
        ModelError: no IR there, or not a stateful text-generation IR.
        UnsupportedError: an architecture the paged engine cannot run, or of which no state can be
            shown.
    """
    model = read_ir(Path(folder), memory_mapped)
    try:
        paged_attention_transformation(model, True, False, False, False, False, False, False)
    except RuntimeError as error:
        raise _not_pageable(folder, last_line(error)) from error
    attentions = attention_nodes(model)
    if not attentions:
        raise _not_pageable(folder, "no attention over a cache was found in it")
    if [_layer_number(node) for node in attentions] != list(range(len(attentions))):
        raise UnsupportedError(
            f"{folder}: some layers share one KV cache, which the paged engine cannot evict from",
            "Use the genai engine for this model.",
        )
    layers, scales = _geometry(folder, attentions)
    groups = [
        members if is_divisible(attention) else whole
        for attention, members, whole in zip(
            attentions, grouping(layers), undivided(layers), strict=True
        )
    ]
    grams = _output_grams(folder, attentions, layers) if shows_states else ()
    nodes, queries = divide_attentions(model, attentions, layers, groups)
    _give_each_cache_its_lengths(model, nodes)
    rows = _add_query_outputs(model, queries)
    cached = cache_layers(layers, groups)
    if shows_states:
        _add_state_outputs(model, require_key_states(model, cached), rows)
    _compute_logits_of_sampled_rows_only(folder, model)
    _refuse_unknown_inputs(folder, model)
    model.validate_nodes_and_infer_types()
    return PagedGraph(model, cached, tuple(scales[part.layer] for part in cached), grams)


def read_geometry(folder: str | Path) -> tuple[LayerGeometry, ...]:
    """Attention geometry of the IR in ``folder``, by layer; errors as :func:`read_paged_graph`."""
    return read_paged_graph(folder).layers


def attention_nodes(model: ov.Model) -> list[ov.Node]:
    """The attention of each cache layer, in their order."""
    # By their inputs: to go through all nodes of a graph from Python takes ten times as long.
    found = [
        port.get_node()
        for parameter in model.get_parameters()
        if any(name.startswith(_KEY_CACHE_INPUT) for name in parameter.output(0).get_names())
        for port in parameter.output(0).get_target_inputs()
    ]
    return sorted((node for node in found if node.get_type_name() == _KIND), key=_layer_number)


def require_key_states(model: ov.Model, layers: Sequence[CacheLayer]) -> list[ov.Output]:
    """By layer of the model ``[tokens, 1, hidden]``, what a gate looks at.

    Args:
        model: paged graph.
        layers: its cache layers.

    Raises:
        UnsupportedError: there is no such state.
    """
    firsts = {part.layer: node for part, node in zip(layers, attention_nodes(model), strict=True)}
    states = find_key_states(model, list(firsts.values()))
    if states is None:
        raise UnsupportedError(
            "no single state enters the model's K projections: a gate has nothing to look at",
            "Run the model without a gate: it keeps distinct tokens.",
        )
    return states


def _not_pageable(folder: str | Path, reason: str) -> ModelError:
    return ModelError(
        f"{folder} is not a text-generation model with a KV cache: {reason}",
        "Export it with the task text-generation-with-past (the default of ov-kvcrush export).",
    )


def _layer_number(attention: ov.Node) -> int:
    (name,) = (
        name for name in attention.input_value(_KEY_CACHE).get_names() if "key_cache" in name
    )
    return int(name.split(".")[1])


def _geometry(
    folder: str | Path, attentions: list[ov.Node]
) -> tuple[tuple[LayerGeometry, ...], tuple[float, ...]]:
    layers, scales = [], []
    for number, attention in enumerate(attentions):
        if attention.input(_ALIBI).get_partial_shape() != ov.PartialShape([0]):
            raise UnsupportedError(
                f"{folder}: its attention depends on distances in the cache (ALiBi), "
                "which eviction would change",
                "Use the genai engine for this model.",
            )
        info = attention.get_rt_info()
        head_size = int(info["k_head_size"].astype(int))
        query_width = attention.input(_QUERY).get_partial_shape()[1].get_length()
        layers.append(
            LayerGeometry(
                num_query_heads=query_width // head_size,
                num_kv_heads=int(info["num_k_heads"].astype(int)),
                key_head_size=head_size,
                value_head_size=int(info["v_head_size"].astype(int)),
                sliding_window=int(_constant(folder, attention, _SLIDING_WINDOW, number)),
            )
        )
        scales.append(_constant(folder, attention, _SCALE, number))
    return tuple(layers), tuple(scales)


def _constant(folder: str | Path, attention: ov.Node, position: int, layer: int) -> float:
    """The value of an input that constants alone decide."""
    source = attention.input_value(position)
    value = ov.Tensor(source.get_element_type(), ov.Shape([]))
    try:
        decided = ov.Model([ops.result(source)], []).evaluate([value], [])
    except RuntimeError:  # it depends on the model's inputs
        decided = False
    if not decided:
        raise UnsupportedError(
            f"{folder}: input {position} of layer {layer}'s attention is computed at run time",
            "Use the genai engine for this model.",
        )
    return float(value.data.item())


def _give_each_cache_its_lengths(model: ov.Model, attentions: list[ov.Node]) -> None:
    shared = {_PAST_LENS: "past_lens", _BLOCK_BEGINS: "block_indices_begins"}
    for number, attention in enumerate(attentions):
        for position, name in shared.items():
            own = add_input(model, f"{name}.{number}", [-1])
            attention.input(position).replace_source_output(own.output(0))
        longest = add_input(model, f"max_context_len.{number}", [])
        attention.input(_MAX_CONTEXT).replace_source_output(longest.output(0))
    for name in ("past_lens", "block_indices_begins", "max_context_len"):
        (node,) = (p for p in model.get_parameters() if name in p.output(0).get_names())
        if not node.output(0).get_target_inputs():
            model.remove_parameter(node)


def _add_query_outputs(model: ov.Model, queries: list[ov.Output]) -> ov.Node:
    """Returns the new input of row numbers."""
    rows = add_input(model, "window_rows", [-1])
    for number, layer in enumerate(queries):
        shown = ops.convert(ops.gather(layer, rows, ops.constant(np.int32(0))), "f32")
        shown.output(0).set_names({f"queries.{number}"})
        model.add_results([ops.result(shown)])
    return rows


def _add_state_outputs(model: ov.Model, states: list[ov.Output], rows: ov.Node) -> None:
    for number, state in enumerate(states):
        shown = ops.convert(ops.gather(state, rows, ops.constant(np.int32(0))), "f32")
        shown.output(0).set_names({f"states.{number}"})
        residual = ops.gather(find_residual_state(state), rows, ops.constant(np.int32(0)))
        norms = ops.reduce_l2(ops.convert(residual, "f32"), ops.constant(np.int32(-1)), False)
        norms.output(0).set_names({f"residual_norms.{number}"})
        model.add_results([ops.result(shown), ops.result(norms)])


def _output_grams(
    folder: str | Path, attentions: list[ov.Node], layers: tuple[LayerGeometry, ...]
) -> tuple[NDArray[np.float32], ...]:
    grams = []
    for attention, layer in zip(attentions, layers, strict=True):
        weights = find_output_projection(attention)
        if weights is None:
            raise UnsupportedError(
                f"{folder}: attention is not followed by one product with weights, so that what a "
                "value adds cannot be told, and a gate cannot be fitted",
                "Run the model without a gate: it keeps distinct tokens.",
            )
        heads = weights.reshape(len(weights), layer.num_query_heads, -1).transpose(1, 2, 0)
        grams.append(heads @ heads.transpose(0, 2, 1))
    return tuple(grams)


def _compute_logits_of_sampled_rows_only(folder: str | Path, model: ov.Model) -> None:
    # Behind the last MatMul there may be element-wise steps (Gemma's soft cap, Granite's scale).
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        if not node.inputs():
            raise _not_pageable(folder, "its logits do not come from a MatMul")
        node = node.input_value(0).get_node()
    rows = add_input(model, "sampled_rows", [-1])
    node.input(0).replace_source_output(choose_rows_early(node.input_value(0), rows))


def _refuse_unknown_inputs(folder: str | Path, model: ov.Model) -> None:
    known = _SHARED_INPUTS | {"window_rows", "sampled_rows"}
    for port in model.inputs:
        name = port.get_any_name()
        base = name.split(".")[0]
        if name not in known and base not in (*PER_LAYER_INPUTS, "key_cache", "value_cache"):
            raise UnsupportedError(
                f"{folder}: the model takes an input {name!r} that the paged engine does not give",
                "Use the genai engine for this model.",
            )
