"""A whole paged graph, compiled in as few parts as its cache precisions need, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.compiled_part import CompiledPart
from ov_kvcrush.runtime.model.graph_parts import split_graph
from ov_kvcrush.runtime.model.paged_graph import PagedGraph
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.plugin.properties import inference_type, with_precision


@dataclass(frozen=True)
class Forward:
    """What one inference tells; views that the next one overwrites.

    Attributes:
        logits: ``[sampled rows, vocab]``.
        queries: by layer ``[window rows, Hq * D]``, after RoPE; none where no rows were wanted.
        gates: by layer ``[tokens, H]``, what the gate says of every token; none without a gate.
        states: by layer ``[window rows, hidden]``, what enters the K projection; none where they
            are not shown or no rows were wanted.
    """

    logits: NDArray[np.float32]
    queries: list[NDArray[np.float32]]
    gates: list[NDArray[np.float32]]
    states: list[NDArray[np.float32]]


class CompiledGraph:
    """The parts of ``graph``, each compiled with one precision of its cache.

    Args:
        graph: whole; it is used up.
        precisions: of the cache, by layer; None leaves a layer's to the IR and the plugin.
        properties: of the plugin.

    Attributes:
        precisions: what the compiled cache really stores, by layer.
        layouts: of a page, by layer.

    Raises:
        ModelError, UnsupportedError, ConfigError: it cannot be compiled so.
    """

    def __init__(
        self,
        graph: PagedGraph,
        precisions: Sequence[LayerPrecision | None],
        properties: Mapping[str, Any],
    ) -> None:
        outputs = {name for port in graph.model.outputs for name in port.get_names()}
        self._has_gate = "gate.0" in outputs
        self._shows_states = "states.0" in outputs
        firsts = [n for n, (a, b) in enumerate(pairwise(precisions), start=1) if a != b]
        passed_as = inference_type(with_precision(properties, precisions[0]))
        self._parts = [
            CompiledPart(
                part, graph.layers, with_precision(properties, precisions[part.layers.start])
            )
            for part in split_graph(graph, firsts, passed_as)
        ]
        self.precisions = tuple(part.precision for part in self._parts for _ in part.layers)
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
        """Make and bind the cache: address space for so many pages of each layer."""
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
        return Forward(
            logits=self._parts[-1].output("logits")[:, 0, :],
            queries=self._by_layer("queries") if has_rows else [],
            gates=[scores[:, 0, :] for scores in self._by_layer("gate")] if self._has_gate else [],
            states=(
                [states[:, 0, :] for states in self._by_layer("states")]
                if has_rows and self._shows_states
                else []
            ),
        )

    def _by_layer(self, name: str) -> list[NDArray[np.float32]]:
        return [part.output(f"{name}.{number}") for part in self._parts for number in part.layers]
