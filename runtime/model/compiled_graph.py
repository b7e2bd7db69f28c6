"""A whole paged graph, compiled in as few parts as its cache precisions need, one after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ov_kvcrush.errors import ModelError
from ov_kvcrush.gate import Gate
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.compiled_part import CompiledPart
from ov_kvcrush.runtime.model.gate_outputs import add_gate_outputs
from ov_kvcrush.runtime.model.graph_parts import split_graph
from ov_kvcrush.runtime.model.paged_graph import PagedGraph, require_key_states
from ov_kvcrush.runtime.pages.cache_layer import CacheLayer
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.plugin.properties import inference_type, with_precision


@dataclass(frozen=True)
class Forward:
    """What one inference tells; views that the next one overwrites.

    Attributes:
        logits: ``[sampled rows, vocab]``.
        queries: by cache layer ``[window rows, Hq * D]``, after RoPE; none where no rows were
            wanted.
        gates: by cache layer ``[tokens, H]``, what the gate says of every token, without its bias;
            none without a gate.
        states: by layer of the model ``[window rows, hidden]``, what enters the K projection; none
            where they are not shown or no rows were wanted.
        residual_norms: by layer of the model ``[window rows]``, the size of the residual stream
            before the norm that gives ``states``; none where those are none.
    """

    logits: NDArray[np.float32]
    queries: list[NDArray[np.float32]]
    gates: list[NDArray[np.float32]]
    states: list[NDArray[np.float32]]
    residual_norms: list[NDArray[np.float32]]


class CompiledGraph:
    """The parts of ``graph``, each compiled with one precision of its cache.

    Args:
        graph: whole; it is used up.
        precisions: of the cache, by layer of the model; None leaves a layer's to the IR and the
            plugin.
        properties: of the plugin.
        gate: of the model; None for none.

    Attributes:
        precisions: what the compiled cache really stores, by layer of the model.
        layouts: of a page, by cache layer.

    Raises:
        ModelError, UnsupportedError, ConfigError: it cannot be compiled so, or the gate is
            another model's.
    """

    def __init__(
        self,
        graph: PagedGraph,
        precisions: Sequence[LayerPrecision | None],
        properties: Mapping[str, Any],
        gate: Gate | None = None,
    ) -> None:
        outputs = {name for port in graph.model.outputs for name in port.get_names()}
        self._shows_states = "states.0" in outputs
        self._heads = _heads_in_order(graph.cache_layers)
        states = [] if gate is None else require_key_states(graph.model, graph.cache_layers)
        weights = {} if gate is None else _fitting_weights(gate, states, graph.cache_layers)
        firsts = [n for n, (a, b) in enumerate(pairwise(precisions), start=1) if a != b]
        passed_as = inference_type(with_precision(properties, precisions[0]))
        self._parts: list[CompiledPart] = []
        self._gates: list[tuple[CompiledPart, range]] = []
        for part in split_graph(graph, firsts, passed_as):
            scored = {number: states[number] for number in part.model_layers if weights}
            groups = add_gate_outputs(part.model, scored, weights)
            properties_of_part = with_precision(properties, precisions[part.model_layers.start])
            self._parts.append(CompiledPart(part, graph.layers, properties_of_part))
            self._gates += [(self._parts[-1], layers) for layers in groups]
        self.precisions = tuple(part.precision for part in self._parts for _ in part.model_layers)
        self.layouts = [layout for part in self._parts for layout in part.layouts]

    @property
    def num_logits(self) -> int:
        """Logits of a row."""
        return self._parts[-1].num_logits

    @property
    def inference_precision(self) -> str:
        """Type the plugin computes in."""
        return self._parts[0].inference_precision

    def reserve(self, layer_pages: Sequence[int]) -> list[CacheMemory]:
        """Make and bind the cache: address space for so many pages of each cache layer."""
        memories: list[CacheMemory] = []
        for part in self._parts:
            memories += part.reserve([layer_pages[number] for number in part.layers])
        return memories

    def share(self, memories: Sequence[CacheMemory]) -> None:
        """Work on a cache that another compiled graph has made, in the same precisions."""
        for part in self._parts:
            part.bind([memories[number] for number in part.layers])

    def forward(self, batch: Batch) -> Forward:
        """As :meth:`ov_kvcrush.runtime.model.paged_model.PagedModel.forward`."""
        hidden_states = None
        for part in self._parts:
            hidden_states = part.infer(batch, hidden_states)
        has_rows = len(batch.window_rows) > 0
        shows_states = has_rows and self._shows_states
        gates = [
            scores
            for part, layers in self._gates
            for scores in part.output(f"gates.{layers.start}")
        ]
        return Forward(
            logits=self._parts[-1].output("logits")[:, 0, :],
            queries=self._by_cache_layer(self._by_layer("queries")) if has_rows else [],
            gates=self._by_cache_layer(gates) if gates else [],
            states=(
                [states[:, 0, :] for states in self._by_layer("states")] if shows_states else []
            ),
            residual_norms=(
                [norms[:, 0] for norms in self._by_layer("residual_norms")] if shows_states else []
            ),
        )

    def _by_layer(self, name: str) -> list[NDArray[np.float32]]:
        return [
            part.output(f"{name}.{number}") for part in self._parts for number in part.model_layers
        ]

    def _by_cache_layer(self, by_layer: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Of ``[rows, heads * width]`` by layer of the model, the columns of each cache layer."""
        if len(by_layer) == len(self._heads):
            return by_layer
        parts = []
        for layer, first, end, count in self._heads:
            rows = by_layer[layer]
            width = rows.shape[1] // count
            parts.append(rows[:, first * width : end * width])
        return parts


def _heads_in_order(layers: Sequence[CacheLayer]) -> list[tuple[int, int, int, int]]:
    """By cache layer: its layer, which KV heads of that in the order of the caches, of how many."""
    counts = Counter(layer.layer for layer in layers for _ in layer.heads)
    before = Counter[int]()
    places = []
    for layer in layers:
        first = before[layer.layer]
        before[layer.layer] += len(layer.heads)
        places.append((layer.layer, first, before[layer.layer], counts[layer.layer]))
    return places


def _fitting_weights(
    gate: Gate, states: Sequence[ov.Output], layers: Sequence[CacheLayer]
) -> dict[int, NDArray[np.float32]]:
    """The gate's weights by layer of the model, in the order of its cache layers.

    Raises:
        ModelError: they are not for these states and heads.
    """
    orders: dict[int, list[int]] = {}
    for part in layers:
        orders.setdefault(part.layer, []).extend(part.heads)
    wanted = [
        (state.get_partial_shape()[2].get_length(), len(orders[number]))
        for number, state in enumerate(states)
    ]
    if [weight.shape for weight in gate.weights] != wanted:
        raise ModelError(
            "the gate beside the model was made for a model of other sizes",
            "Make another one with: ov-kvcrush calibrate MODEL_DIR --only gate",
        )
    return {number: weight[:, orders[number]] for number, weight in enumerate(gate.weights)}
