"""A compiled paged model with its cache: a batch of tokens in, logits and window queries out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError, DeviceError
from ov_kvcrush.gate import Gate
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import AUTO, SAME, LayerPrecision
from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.compiled_graph import CompiledGraph, Forward
from ov_kvcrush.runtime.model.decode_choice import choose_decoding
from ov_kvcrush.runtime.model.paged_graph import read_paged_graph
from ov_kvcrush.runtime.model.vocabulary import num_token_ids
from ov_kvcrush.runtime.model.weights import WeightBytes
from ov_kvcrush.runtime.pages.cache_layer import HeadGrouping, undivided
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.plugin.amx import has_amx
from ov_kvcrush.runtime.plugin.core import require_device, require_properties
from ov_kvcrush.runtime.plugin.properties import (
    ENABLE_MMAP,
    INFERENCE_PRECISION,
    VALUE_GROUP_SIZE,
)

# With 8-bit weights f32 is faster than bf16 up to about 28 tokens at once: the plugin multiplies
# in int8 then (dynamic quantization), and converts the weights for every bf16 inference.
MOST_DECODE_TOKENS = 16
"""Tokens of one inference that are computed as decoding is; a few more of them cost little."""


class PagedModel:
    """The model in ``folder`` compiled for ``device``, in as few parts as its precisions need.

    Args:
        folder: exported model.
        device: name of the device.
        precisions: of the cache, one for all layers or by layer of the model; None leaves it to the
            IR and the plugin.
        properties: of the plugin.
        decode_precision: one of ``DECODE_PRECISIONS``. With ``"f32"`` the model is compiled once
            more, for inferences of few tokens: it computes in f32 there, on the same cache,
            whatever ``properties`` say.
        gate: tells of each token how much later text will want it; None for none.
        shows_states: whether ``forward`` gives the states that a gate is fitted on.
        grouping: which KV heads of a layer share a cache.
        before_compiling: called when the graph is read and only its compilation is left.

    Attributes:
        cache_layers: whose heads have a cache of their own; a *layer* in what follows, where it is
            not said to be the model's.
        layers: geometry by layer.
        scales: factor on query-key products, by layer.
        output_grams: by layer of the model ``[Hq, Dv, Dv]``, where states are shown:
            ``v @ gram @ v`` is the square of what a value ``v`` adds to the residual stream.
        precisions: what the compiled cache really stores, by layer of the model.
        layouts: of a page, by layer.
        num_token_ids: token ids that it can read and write: 0 and on; 0 where it does not tell.
        memories: the cache by layer, once it has been reserved.
        has_gate: whether ``forward`` gives what a gate says.
        trusts_gate: whether cuts go by it unless they are told to.
        decode_reason: why decoding computes in what it does.

    Raises:
        ModelError, UnsupportedError: the folder holds nothing this engine can run.
        DeviceError: no such device, or not one this engine serves.
        ConfigError: a property the plugin does not take, or precisions that do not go together.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "CPU",
        precisions: LayerPrecision | Sequence[LayerPrecision] | None = None,
        properties: Mapping[str, Any] | None = None,
        decode_precision: str = SAME,
        gate: Gate | None = None,
        shows_states: bool = False,
        grouping: HeadGrouping = undivided,
        before_compiling: Callable[[], object] | None = None,
    ) -> None:
        require_cpu(device)
        properties = dict(properties or {})
        require_properties("CPU", properties)
        mapped = properties.pop(ENABLE_MMAP, True)
        graph = read_paged_graph(folder, mapped, shows_states, grouping)
        self.cache_layers, self.scales = graph.cache_layers, graph.scales
        self.layers = graph.layers
        _require_dividing_groups(properties, self.layers)
        self.output_grams = graph.output_grams
        self.num_token_ids = num_token_ids(graph.model)
        if precisions is None or isinstance(precisions, LayerPrecision):
            by_layer = [precisions] * self.num_model_layers
        else:
            by_layer = list(precisions)
        amx = has_amx()
        # A graph is used up by its compilation: a copy is kept only where another may follow.
        may_follow = amx if decode_precision == AUTO else decode_precision != SAME
        spare = replace(graph, model=graph.model.clone()) if may_follow else None
        if before_compiling is not None:
            before_compiling()
        self._compiled = CompiledGraph(graph, by_layer, properties, gate)
        _require_grouped_values(properties, self._compiled.precisions)
        self._decoding = self._compiled
        import psutil  # what is imported before the graph is there delays its compilation

        choice = choose_decoding(
            decode_precision,
            self._compiled.inference_precision,
            partial(WeightBytes.of, (spare or graph).model),
            self._compiled.precisions,
            psutil.virtual_memory().available,
            amx,
        )
        self.decode_reason = choice.reason
        if spare is not None and choice.precision is not None:
            properties[INFERENCE_PRECISION] = choice.precision
            self._decoding = CompiledGraph(spare, self._compiled.precisions, properties, gate)
        self.precisions = self._compiled.precisions
        self.layouts = self._compiled.layouts
        self.memories: list[CacheMemory] = []
        self.has_gate = gate is not None
        self.trusts_gate = gate is not None and gate.is_trusted

    @property
    def num_model_layers(self) -> int:
        """Layers of the model; as many as ``layers`` unless heads are divided."""
        return self.cache_layers[-1].layer + 1

    @property
    def page_bytes(self) -> int:
        """Bytes of one page in all layers together."""
        return sum(layout.page_bytes for layout in self.layouts)

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of one token in all layers together."""
        return self.page_bytes / PAGE_SIZE

    @property
    def vocab_size(self) -> int:
        """Token ids there are."""
        return self._compiled.num_logits

    @property
    def inference_precision(self) -> str:
        """Type the plugin computes in."""
        return self._compiled.inference_precision

    @property
    def decode_precision(self) -> str:
        """Type it computes in where few tokens are computed at once."""
        return self._decoding.inference_precision

    def reserve(self, layer_pages: Sequence[int]) -> None:
        """Make and bind the cache: address space for so many pages of each layer."""
        self.memories = self._compiled.reserve(layer_pages)
        if self._decoding is not self._compiled:
            self._decoding.share(self.memories)

    def forward(self, batch: Batch) -> Forward:
        """Run one inference; the plugin writes the new keys and values into the pages."""
        few = len(batch.input_ids) <= MOST_DECODE_TOKENS
        return (self._decoding if few else self._compiled).forward(batch)


def require_cpu(device: str) -> str:
    """``device`` as OpenVINO spells it; DeviceError where this engine does not serve it."""
    name = require_device(device)
    if name != "CPU":
        raise DeviceError(
            f"the paged engine runs on CPU, not on {device}",
            "For other devices use the genai engine (engine='genai').",
        )
    return name


def _require_dividing_groups(
    properties: Mapping[str, Any], layers: Sequence[LayerGeometry]
) -> None:
    size = int(properties.get(VALUE_GROUP_SIZE, 0))
    undivided = {layer.value_head_size for layer in layers if size and layer.value_head_size % size}
    for head_size in sorted(undivided):
        raise ConfigError(
            f"{VALUE_GROUP_SIZE} {size} does not divide the {head_size} elements of a value"
        )


def _require_grouped_values(
    properties: Mapping[str, Any], stored: Sequence[LayerPrecision]
) -> None:
    exact = {layer.value for layer in stored} & {"bf16", "f32"}
    if exact and int(properties.get(VALUE_GROUP_SIZE, 0)):
        raise ConfigError(
            f"{VALUE_GROUP_SIZE} has no effect on values in {min(exact)}",
            "Leave it out, or store the values in u8 or u4.",
        )
