"""Consecutive layers of a paged model, compiled with one precision of their cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ov_kvcrush.errors import UnsupportedError
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.graph_parts import HIDDEN_STATES, GraphPart
from ov_kvcrush.runtime.pages.cache_layer import CacheLayer
from ov_kvcrush.runtime.pages.layout import CacheLayout
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.plugin.core import core, not_compiled

_TYPE_NAMES = {ov.Type.f32: "f32", ov.Type.bf16: "bf16", ov.Type.u8: "u8", ov.Type.u4: "u4"}

# Tokens of an answer, at least, for which the plugin has kernels once it has read the prompt.
_AHEAD = 256


class CompiledPart:
    """A part of a paged graph on the CPU.

    Args:
        part: what to compile.
        geometry: of all cache layers.
        properties: of the plugin, with the cache's precision where the IR does not say it.

    Attributes:
        layers: numbers of its cache layers.
        model_layers: numbers of the layers that they belong to.
        precision: what their cache really stores.
        layouts: of a page, by cache layer.

    Raises:
        ModelError: the plugin does not compile it.
        UnsupportedError: it lays the cache out in a way this release does not know.
    """

    def __init__(
        self, part: GraphPart, geometry: Sequence[LayerGeometry], properties: Mapping[str, Any]
    ) -> None:
        self.layers = part.layers
        self.model_layers = part.model_layers
        self._passed_on = part.passed_on
        self._compiled = _compile(part.model, properties)
        self.precision = self._compiled_precision()
        self.layouts = [CacheLayout.of(geometry[n], self.precision) for n in self.layers]
        for number, layer, layout in zip(self.layers, part.cache_layers, self.layouts, strict=True):
            self._check_layout(number, layer, layout)
        self._request = self._compiled.create_infer_request()
        self._known = {name: port for port in self._compiled.inputs for name in port.get_names()}
        # By port: to find a tensor by its name takes ten times as long, for every layer and step.
        self._outputs = {name: port for port in self._compiled.outputs for name in port.get_names()}
        self._inputs: dict[str, NDArray[np.integer]] = {}
        self._memories: list[CacheMemory] = []

    @property
    def inference_precision(self) -> str:
        """Type the plugin computes in."""
        return str(self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())

    @property
    def num_logits(self) -> int:
        """Logits of a row; of the last part."""
        return int(self._compiled.output("logits").partial_shape[-1].get_length())

    def reserve(self, layer_pages: Sequence[int]) -> list[CacheMemory]:
        """Make and bind the cache: address space for so many pages of each of its layers."""
        memories = [
            CacheMemory(
                layout,
                num_pages,
                self._compiled.input(f"key_cache.{number}"),
                self._compiled.input(f"value_cache.{number}"),
            )
            for number, layout, num_pages in zip(
                self.layers, self.layouts, layer_pages, strict=True
            )
        ]
        self.bind(memories)
        return memories

    def bind(self, memories: Sequence[CacheMemory]) -> None:
        """Work on ``memories``, one for each of its layers, laid out as ``layouts``."""
        for number, memory in zip(self.layers, memories, strict=True):
            self._request.set_tensor(f"key_cache.{number}", memory.key_tensor)
            self._request.set_tensor(f"value_cache.{number}", memory.value_tensor)
            # The plugin writes into it as long as the request lives, whoever else knows it.
            self._memories.append(memory)

    def infer(self, batch: Batch, hidden_states: ov.Tensor | None) -> ov.Tensor | None:
        """Run on what the part before passed on, None for the first; what the next one is to get.

        The result is a view that the next call overwrites; None from the last part.
        """
        self._give("input_ids", batch.input_ids)
        self._give("position_ids", batch.position_ids)
        self._give("subsequence_begins", batch.subsequence_begins)
        self._give("sampled_rows", batch.sampled_rows)
        self._give("window_rows", batch.window_rows)
        own = slice(self.layers.start, self.layers.stop)
        past = batch.past_lens[own]
        self._give("past_lens", past.ravel())
        self._give("max_context_len", _context_lengths(past, np.diff(batch.subsequence_begins)))
        self._give("block_indices", batch.block_indices)
        self._give("block_indices_begins", batch.block_indices_begins[own].ravel())
        if hidden_states is not None:
            self._request.set_tensor(HIDDEN_STATES, hidden_states)
        self._request.infer()
        return None if self._passed_on is None else self._request.get_tensor(self._passed_on)

    def output(self, name: str) -> NDArray[np.float32]:
        """The output called ``name``, a view that the next inference overwrites."""
        found: NDArray[np.float32] = self._request.get_tensor(self._outputs[name]).data
        return found

    def _give(self, name: str, value: NDArray[np.integer]) -> None:
        """Make ``value`` the input called ``name``; nothing where this part has no such input.

        One of the same shape as before goes into the memory the plugin has already: from one decode
        step to the next few shapes change, and binding tensors takes longer than filling them.
        """
        bound = self._inputs.get(name)
        if bound is not None and bound.shape == value.shape:
            bound[...] = value
        elif name in self._known:
            bound = self._inputs[name] = value.copy()
            self._request.set_tensor(self._known[name], ov.Tensor(bound, shared_memory=True))

    def _compiled_precision(self) -> LayerPrecision:
        key, value = (self._stored_type(side) for side in ("key", "value"))
        group = int(self._compiled.get_property("VALUE_CACHE_GROUP_SIZE"))
        return LayerPrecision(key, value, value_group_size=group)

    def _stored_type(self, side: str) -> str:
        kind = self._compiled.input(f"{side}_cache.{self.layers.start}").element_type
        if kind not in _TYPE_NAMES:
            raise UnsupportedError(
                f"the plugin stores {side}s as {kind.get_type_name()} on this machine, "
                "a layout this release does not know",
                "Choose u8, u4 or f32 with key_cache_precision and value_cache_precision.",
            )
        return _TYPE_NAMES[kind]

    def _check_layout(self, number: int, layer: CacheLayer, layout: CacheLayout) -> None:
        # A plugin that lays pages out otherwise must be refused, not misread.
        for side, ours in (("key", layout.key_page_bytes), ("value", layout.value_page_bytes)):
            port = self._compiled.input(f"{side}_cache.{number}")
            sizes = [d.get_length() for d in list(port.partial_shape)[1:]]
            theirs = int(np.prod(sizes)) * port.element_type.bitwidth // 8
            if theirs != ours:
                raise UnsupportedError(
                    f"{layer}: the plugin's {side} page is {sizes} of "
                    f"{port.element_type.get_type_name()}, {theirs} bytes; this release expects "
                    f"{ours}",
                    "Install the openvino release that ov-kvcrush names in its dependencies.",
                )


def _context_lengths(past: NDArray[np.int32], counts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Tokens of the longest sequence, by layer, as the plugin is to be told: ``[layers]``.

    Where every sequence reads one token, the plugin deals out that many tokens' pages to its
    threads, before it looks which of them there are: with the length of a longer layer some would
    have nothing to do. And whenever it is told of more pages than ever before, it makes its kernels
    anew, which takes milliseconds: where a text is read, and this number makes no other difference,
    it is told of more, so that the answer will not be longer.

    Args:
        past: ``[layers, seqs]``, tokens in the cache.
        counts: ``[seqs]``, tokens that each sequence reads.
    """
    longest: NDArray[np.int32] = (past + counts).max(axis=1)
    return longest + longest // 4 + _AHEAD if counts.max() > 1 else longest


def _compile(model: ov.Model, properties: Mapping[str, Any]) -> ov.CompiledModel:
    try:
        return core().compile_model(model, "CPU", dict(properties))
    except RuntimeError as error:
        raise not_compiled(error, "OpenVINO could not compile the model") from error
