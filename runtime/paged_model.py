"""A compiled paged model with its cache: a batch of tokens in, logits and window queries out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ov_kvcrush.config import require_precision_pair
from ov_kvcrush.errors import ConfigError, DeviceError, ModelError, UnsupportedError
from ov_kvcrush.plan import LayerPrecision
from ov_kvcrush.runtime.cache_layout import PAGE_SIZE, CacheLayout
from ov_kvcrush.runtime.cache_memory import CacheMemory
from ov_kvcrush.runtime.device import core, require_device, require_properties
from ov_kvcrush.runtime.paged_graph import read_paged_graph

Ints = NDArray[np.int32]

_TYPE_NAMES = {ov.Type.f32: "f32", ov.Type.bf16: "bf16", ov.Type.u8: "u8", ov.Type.u4: "u4"}


@dataclass(frozen=True)
class Batch:
    """Tokens of several sequences for one inference, flat.

    Attributes:
        input_ids: ``[tokens]`` int64.
        position_ids: ``[tokens]`` int64, true positions.
        subsequence_begins: ``[seqs + 1]`` first token of each sequence.
        past_lens: by layer ``[seqs]``, tokens in the cache.
        block_indices: by layer ``[pages]``, page tables one after the other.
        block_indices_begins: by layer ``[seqs + 1]``, first page of each sequence.
        sampled_rows: ``[rows]`` tokens whose logits are wanted.
        window_rows: ``[rows]`` tokens whose queries are wanted.
    """

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    subsequence_begins: Ints
    past_lens: list[Ints]
    block_indices: list[Ints]
    block_indices_begins: list[Ints]
    sampled_rows: Ints
    window_rows: Ints


class PagedModel:
    """The model in ``folder`` compiled for ``device``.

    Attributes:
        layers: geometry by layer.
        scales: factor on query-key products, by layer.
        precision: what the compiled cache really stores.
        memories: the cache by layer, once it has been reserved.
        properties: what the plugin says it compiled with.

    Raises:
        ModelError, UnsupportedError: the folder holds nothing this engine can run.
        DeviceError: no such device, or not one this engine serves.
        ConfigError: a property the plugin does not take.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "CPU",
        precision: LayerPrecision | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        graph = read_paged_graph(folder)
        self.layers, self.scales = graph.layers, graph.scales
        wanted = _with_precision(dict(properties or {}), precision)
        self._compiled = _compile(graph.model, device, wanted)
        self.precision = self._compiled_precision()
        self.layouts = [CacheLayout.of(layer, self.precision) for layer in self.layers]
        for number, layout in enumerate(self.layouts):
            self._check_layout(number, layout)
        self._request = self._compiled.create_infer_request()
        self._inputs: dict[str, NDArray[np.integer]] = {}
        self.memories: list[CacheMemory] = []

    @property
    def page_bytes(self) -> int:
        """Bytes of one page in all layers together."""
        return sum(layout.key_page_bytes + layout.value_page_bytes for layout in self.layouts)

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of one token in all layers together."""
        return self.page_bytes / PAGE_SIZE

    @property
    def inference_precision(self) -> str:
        """Type the plugin computes in."""
        return str(self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())

    def reserve(self, layer_pages: Sequence[int]) -> None:
        """Make and bind the cache: address space for so many pages of each layer."""
        for number, (layout, num_pages) in enumerate(zip(self.layouts, layer_pages, strict=True)):
            key_port = self._compiled.input(f"key_cache.{number}")
            value_port = self._compiled.input(f"value_cache.{number}")
            memory = CacheMemory(layout, num_pages, key_port, value_port)
            self._request.set_tensor(key_port, memory.key_tensor)
            self._request.set_tensor(value_port, memory.value_tensor)
            self.memories.append(memory)

    def forward(self, batch: Batch) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Run one inference; the plugin writes the new keys and values into the pages.

        Returns:
            Logits ``[sampled rows, vocab]`` and, by layer, queries ``[window rows, Hq * D]``;
            views that the next call overwrites.
        """
        self._give("input_ids", batch.input_ids)
        self._give("position_ids", batch.position_ids)
        self._give("subsequence_begins", batch.subsequence_begins)
        self._give("sampled_rows", batch.sampled_rows)
        self._give("window_rows", batch.window_rows)
        new = np.diff(batch.subsequence_begins)
        for layer, past in enumerate(batch.past_lens):
            self._give(f"past_lens.{layer}", past)
            self._give(f"max_context_len.{layer}", np.array((past + new).max(), np.int32))
            self._give(f"block_indices.{layer}", batch.block_indices[layer])
            self._give(f"block_indices_begins.{layer}", batch.block_indices_begins[layer])
        self._request.infer()
        logits = self._request.get_tensor("logits").data[:, 0, :]
        if not len(batch.window_rows):
            return logits, []
        queries = [self._request.get_tensor(f"queries.{n}").data for n in range(len(self.layers))]
        return logits, queries

    def _give(self, name: str, value: NDArray[np.integer]) -> None:
        """Make ``value`` the input called ``name``.

        One of the same shape as before goes into the memory the plugin has already: from one decode
        step to the next few shapes change, and binding 70 tensors takes longer than filling them.
        """
        bound = self._inputs.get(name)
        if bound is not None and bound.shape == value.shape:
            bound[...] = value
            return
        self._inputs[name] = value
        self._request.set_tensor(name, ov.Tensor(value, shared_memory=True))

    def _compiled_precision(self) -> LayerPrecision:
        key, value = (self._stored_type(side) for side in ("key", "value"))
        group = int(self._compiled.get_property("VALUE_CACHE_GROUP_SIZE"))
        return LayerPrecision(key, value, value_group_size=group)

    def _stored_type(self, side: str) -> str:
        kind = self._compiled.input(f"{side}_cache.0").element_type
        if kind not in _TYPE_NAMES:
            raise UnsupportedError(
                f"the plugin stores {side}s as {kind.get_type_name()} on this machine, "
                "a layout this release does not know",
                "Choose u8, u4 or f32 with key_cache_precision and value_cache_precision.",
            )
        return _TYPE_NAMES[kind]

    def _check_layout(self, number: int, layout: CacheLayout) -> None:
        # A plugin that lays pages out otherwise must be refused, not misread.
        for side, ours in (("key", layout.key_page_bytes), ("value", layout.value_page_bytes)):
            port = self._compiled.input(f"{side}_cache.{number}")
            sizes = [d.get_length() for d in list(port.partial_shape)[1:]]
            theirs = int(np.prod(sizes)) * port.element_type.bitwidth // 8
            if theirs != ours:
                raise UnsupportedError(
                    f"layer {number}: the plugin's {side} page is {sizes} of "
                    f"{port.element_type.get_type_name()}, {theirs} bytes; this release expects "
                    f"{ours}",
                    "Install the openvino release that ov-kvcrush names in its dependencies.",
                )


def _with_precision(properties: dict[str, Any], precision: LayerPrecision | None) -> dict[str, Any]:
    if precision is None:
        return properties
    require_precision_pair(precision.key, precision.value)
    properties["KEY_CACHE_PRECISION"] = precision.key
    properties["VALUE_CACHE_PRECISION"] = precision.value
    if precision.key_group_size:
        properties["KEY_CACHE_GROUP_SIZE"] = precision.key_group_size
    if precision.value_group_size:
        properties["VALUE_CACHE_GROUP_SIZE"] = precision.value_group_size
    # The plugin stores f32 only where it computes in f32, and bf16 only where it does not.
    hint = properties.get("INFERENCE_PRECISION_HINT")
    hint_name = hint.get_type_name() if isinstance(hint, ov.Type) else hint
    if precision.key == "f32" and hint_name is None:
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    elif (precision.key == "f32" and hint_name != "f32") or (
        precision.key == "bf16" and hint_name == "f32"
    ):
        raise ConfigError(
            f"a KV cache in {precision.key} does not go with INFERENCE_PRECISION_HINT {hint_name}",
            "f32 caches need f32 inference, bf16 caches bf16 inference; or use u8 or u4.",
        )
    return properties


def _compile(model: ov.Model, device: str, properties: dict[str, Any]) -> ov.CompiledModel:
    if require_device(device) != "CPU":
        raise DeviceError(
            f"the paged engine runs on CPU, not on {device}",
            "For other devices use the genai engine (engine='genai').",
        )
    require_properties("CPU", properties)
    try:
        return core().compile_model(model, "CPU", properties)
    except RuntimeError as error:
        reason = [line for line in str(error).strip().splitlines() if line.strip()][-1]
        raise ModelError(f"OpenVINO could not compile the model: {reason}") from error
