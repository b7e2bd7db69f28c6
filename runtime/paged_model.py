"""A compiled paged model with its cache: a batch of tokens in, logits and window queries out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ov_kvcrush.errors import ConfigError, DeviceError
from ov_kvcrush.precisions import LayerPrecision, require_precision_pair
from ov_kvcrush.runtime.batch import Batch
from ov_kvcrush.runtime.cache_layout import PAGE_SIZE
from ov_kvcrush.runtime.cache_memory import CacheMemory
from ov_kvcrush.runtime.compiled_part import CompiledPart
from ov_kvcrush.runtime.device import core, require_device, require_properties
from ov_kvcrush.runtime.graph_cuts import cut_graph
from ov_kvcrush.runtime.paged_graph import read_paged_graph

_HINT = "INFERENCE_PRECISION_HINT"


class PagedModel:
    """The model in ``folder`` compiled for ``device``, in as few parts as its precisions need.

    Args:
        folder: exported model.
        device: name of the device.
        precisions: of the cache, one for all layers or by layer; None leaves it to the IR and the
            plugin.
        properties: of the plugin.

    Attributes:
        layers: geometry by layer.
        scales: factor on query-key products, by layer.
        precisions: what the compiled cache really stores, by layer.
        layouts: of a page, by layer.
        memories: the cache by layer, once it has been reserved.

    Raises:
        ModelError, UnsupportedError: the folder holds nothing this engine can run.
        DeviceError: no such device, or not one this engine serves.
        ConfigError: a property the plugin does not take.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "CPU",
        precisions: LayerPrecision | Sequence[LayerPrecision] | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        _require_cpu(device)
        properties = dict(properties or {})
        require_properties("CPU", properties)
        graph = read_paged_graph(folder)
        self.layers, self.scales = graph.layers, graph.scales
        if precisions is None or isinstance(precisions, LayerPrecision):
            by_layer = [precisions] * len(self.layers)
        else:
            by_layer = list(precisions)
        firsts = [n for n, (a, b) in enumerate(pairwise(by_layer), start=1) if a != b]
        self._parts = [
            CompiledPart(part, self.layers, with_precision(properties, by_layer[part.layers.start]))
            for part in cut_graph(
                graph, firsts, _computed_in(with_precision(properties, by_layer[0]))
            )
        ]
        self.precisions = tuple(part.precision for part in self._parts for _ in part.layers)
        self.layouts = [layout for part in self._parts for layout in part.layouts]
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
    def vocab_size(self) -> int:
        """Token ids there are."""
        return self._parts[-1].num_logits

    @property
    def inference_precision(self) -> str:
        """Type the plugin computes in."""
        return self._parts[0].inference_precision

    def reserve(self, layer_pages: Sequence[int]) -> None:
        """Make and bind the cache: address space for so many pages of each layer."""
        for part in self._parts:
            self.memories += part.reserve([layer_pages[number] for number in part.layers])

    def forward(self, batch: Batch) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Run one inference; the plugin writes the new keys and values into the pages.

        Returns:
            Logits ``[sampled rows, vocab]`` and, by layer, queries ``[window rows, Hq * D]``;
            views that the next call overwrites.
        """
        hidden_states = None
        for part in self._parts:
            hidden_states = part.infer(batch, hidden_states)
        logits = self._parts[-1].output("logits")[:, 0, :]
        if not len(batch.window_rows):
            return logits, []
        return logits, [
            part.output(f"queries.{number}") for part in self._parts for number in part.layers
        ]


def _computed_in(properties: Mapping[str, Any]) -> ov.Type:
    """The type the plugin computes in: what ``properties`` ask for, else its own choice."""
    own_choice = {_HINT: core().get_property("CPU", _HINT)}
    name = _hinted_type(properties) or _hinted_type(own_choice)
    return ov.Type.bf16 if name == "bf16" else ov.Type.f32


def _hinted_type(properties: Mapping[str, Any]) -> str | None:
    hint = properties.get(_HINT)
    return hint.get_type_name() if isinstance(hint, ov.Type) else hint


def _require_cpu(device: str) -> None:
    if require_device(device) != "CPU":
        raise DeviceError(
            f"the paged engine runs on CPU, not on {device}",
            "For other devices use the genai engine (engine='genai').",
        )


def with_precision(
    properties: Mapping[str, Any], precision: LayerPrecision | None
) -> Mapping[str, Any]:
    """``properties`` of the plugin with those that store the cache in ``precision``, if any.

    Raises:
        ConfigError: the plugin has no such pair, or not with the inference precision asked for.
    """
    if precision is None:
        return properties
    require_precision_pair(precision.key, precision.value)
    wanted = dict(properties)
    wanted["KEY_CACHE_PRECISION"] = precision.key
    wanted["VALUE_CACHE_PRECISION"] = precision.value
    if precision.key_group_size:
        wanted["KEY_CACHE_GROUP_SIZE"] = precision.key_group_size
    if precision.value_group_size:
        wanted["VALUE_CACHE_GROUP_SIZE"] = precision.value_group_size
    # The plugin stores f32 only where it computes in f32, and bf16 only where it does not.
    hint_name = _hinted_type(properties)
    if precision.key == "f32" and hint_name is None:
        wanted[_HINT] = "f32"
    elif (precision.key == "f32" and hint_name != "f32") or (
        precision.key == "bf16" and hint_name == "f32"
    ):
        raise ConfigError(
            f"a KV cache in {precision.key} does not go with INFERENCE_PRECISION_HINT {hint_name}",
            "f32 caches need f32 inference, bf16 caches bf16 inference; or use u8 or u4.",
        )
    return wanted
