"""Between two inferences: score the cached tokens, select, move the kept ones, free the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence as SequenceOf
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime import kernels, key_codec
from ov_kvcrush.runtime.cache_layout import PAGE_SIZE
from ov_kvcrush.runtime.cache_memory import CacheMemory
from ov_kvcrush.runtime.kv_cache import KVCache
from ov_kvcrush.runtime.sequence import Sequence
from ov_kvcrush.selection import Observation


class Compressor:
    """Cuts a sequence's cache to its budget: layers on threads of their own, heads each their own.

    Layers with a sliding window never read what has left it, so they are not chosen from: they drop
    whole pages from the front as the window moves on.

    Args:
        layers: geometry by layer.
        scales: factor on query-key products, by layer.
        memories: the pages, by layer.
        config: budget and policy.
    """

    def __init__(
        self,
        layers: SequenceOf[LayerGeometry],
        scales: SequenceOf[float],
        memories: SequenceOf[CacheMemory],
        config: KVCacheConfig,
    ) -> None:
        config.require_page_multiples(PAGE_SIZE)
        self._layers = layers
        self._scales = scales
        self._memories = memories
        self._config = config
        self._selector = config.selector(PAGE_SIZE)
        self._chosen = [n for n, layer in enumerate(layers) if not layer.sliding_window]
        self._sliding = [n for n, layer in enumerate(layers) if layer.sliding_window]
        self._threads = ThreadPoolExecutor(max_workers=_num_cpus())
        kernels.compile_for(key_codec.KEY_KINDS[memories[0].layout.key_type])

    def compress(self, sequence: Sequence, cache: KVCache) -> None:
        """Cut ``sequence`` if it is due, and give back every page it no longer needs."""
        self._slide(sequence, cache)
        if self._is_due(sequence):
            self._cut(sequence)
            cache.trim(sequence)

    def _is_due(self, sequence: Sequence) -> bool:
        """Whether ``sequence`` stands at a planned cut, or has outgrown budget and slack."""
        config = self._config
        if sequence.planned_cuts:
            return sequence.num_cached == sequence.planned_cuts[0]
        limit = config.max_cache_size + config.decode_slack
        return any(sequence.layers[n].length >= limit for n in self._chosen)

    def _cut(self, sequence: Sequence) -> None:
        """Cut every layer to the budget; the freed pages stay at the tables' ends."""
        if sequence.planned_cuts and sequence.planned_cuts[0] == sequence.num_cached:
            sequence.planned_cuts.pop(0)
        longest = max((sequence.layers[n].length for n in self._chosen), default=0)
        if longest <= self._config.max_cache_size:
            return
        kept = list(self._threads.map(lambda n: self._cut_layer(sequence, n), self._chosen))
        for number, slots in zip(self._chosen, kept, strict=True):
            sequence.layers[number].keep(slots)
        sequence.cuts.append(sequence.num_cached)
        sequence.rewind_floor = max(
            sequence.rewind_floor, sequence.num_cached - self._config.recent_size
        )

    def _slide(self, sequence: Sequence, cache: KVCache) -> None:
        """Free the pages that have left the window of the layers that have one."""
        for number in self._sliding:
            window = self._layers[number].sliding_window
            layer = sequence.layers[number]
            behind = (layer.length - window) // PAGE_SIZE
            if behind > 0:
                cache.free(number, layer.drop_front_pages(behind))
                held_from = int(layer.positions[0, 0])
                sequence.rewind_floor = max(sequence.rewind_floor, held_from + window)

    def _cut_layer(self, sequence: Sequence, number: int) -> NDArray[np.int32]:
        layer, memory = sequence.layers[number], self._memories[number]
        kind = key_codec.KEY_KINDS[memory.layout.key_type]
        table = np.array(layer.pages, np.int32)
        head_size = memory.layout.key_head_size
        if sequence.window is None:
            raise RuntimeError("a sequence without a query window cannot be cut")
        queries = sequence.window.queries(number)
        mass = kernels.attention_mass(
            queries, self._scales[number], memory.keys, kind, table, layer.length
        )
        distinctiveness = None
        if self._selector.needs_distinctiveness:
            distinctiveness = kernels.key_distinctiveness(
                memory.keys, kind, table, layer.length, head_size
            )
        slots = self._selector.select(
            Observation(mass, layer.positions, distinctiveness), self._config.max_cache_size
        )
        kernels.keep_tokens(memory.keys, kind, memory.values, table, slots, head_size)
        return slots


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
