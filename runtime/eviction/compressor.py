"""Between two inferences: score the cached tokens, select, move the kept ones, free the rest."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets
from ov_kvcrush.runtime.eviction.cut_plan import CutPlanner
from ov_kvcrush.runtime.eviction.interface import Eviction
from ov_kvcrush.runtime.eviction.layer_threads import LayerThreads
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.plugin.spare_thread import SpareThread
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence
from ov_kvcrush.selection import Observation, Selector

# Numba and its loops take longer to load than a small model to compile, and nothing is cut before a
# cache is full: they are imported where they are called, and loaded when a cut is in sight.
if TYPE_CHECKING:
    from ov_kvcrush.runtime.eviction.moving import Move

# Queries of a chunk whose attention is computed together where all of it is accumulated.
_ACCUMULATED_AT_ONCE = 32


@dataclass(frozen=True)
class _Policy:
    """Which tokens stay at the end of a prompt and behind it, and while it is read."""

    at_end: Selector
    reading: Selector

    @classmethod
    def of(cls, config: KVCacheConfig) -> _Policy:
        return cls(config.selector(PAGE_SIZE), config.prefill_selector(PAGE_SIZE))

    @property
    def num_window_queries(self) -> int:
        return max(self.at_end.num_window_queries, self.reading.num_window_queries)

    @property
    def needs_accumulation(self) -> bool:
        return self.at_end.needs_accumulation or self.reading.needs_accumulation

    @property
    def needs_distinctiveness(self) -> bool:
        return self.at_end.needs_distinctiveness or self.reading.needs_distinctiveness


class Compressor(Eviction):
    """Cuts a sequence's cache to its budget: layers on threads of their own, heads each their own.

    Args:
        layers: geometry by layer.
        scales: factor on query-key products, by layer.
        memories: the pages, by layer.
        config: budget and policy, with nothing left open.
        budgets: the layers' parts of the budget.
        planner: says when a cut is due.
        threads: for the layers; None makes its own.
    """

    def __init__(
        self,
        layers: SequenceOf[LayerGeometry],
        scales: SequenceOf[float],
        memories: SequenceOf[CacheMemory],
        config: KVCacheConfig,
        budgets: CacheBudgets,
        planner: CutPlanner,
        threads: LayerThreads | None = None,
    ) -> None:
        self._layers = layers
        self._scales = scales
        self._memories = memories
        # A layer without a window has one that nothing ever leaves.
        never = np.iinfo(np.int32).max
        self._windows = np.array([layer.sliding_window or never for layer in layers], np.int64)
        self._config = config
        self._budgets = budgets
        self._planner = planner
        self._policy = _Policy.of(config)
        # Of tokens from a session that was saved without a gate it has said nothing.
        self._unscored_policy = _Policy.of(config.without_gate())
        # A second reading has looked at every token, whatever a gate could say of them.
        self._thorough_policy = _Policy.of(config.with_scores())
        adaptive = config.window_size if budgets.needs_attention else 0
        policies = (self._policy, self._unscored_policy, self._thorough_policy)
        self.window_size = max(*(one.num_window_queries for one in policies), adaptive)
        self.accumulates = any(one.needs_accumulation for one in policies)
        self._threads = threads or LayerThreads()
        self._loader = SpareThread()
        self._loops = self._loader.add(
            partial(
                _load_loops,
                attention=self.window_size > 0 or self.accumulates,
                distinctiveness=self._policy.needs_distinctiveness,
            )
        )

    def prepare(self, num_tokens: int) -> None:
        """See :class:`Eviction`."""
        if num_tokens > self._config.max_cache_size // 2:
            self._loader.begin()

    def accumulate(self, sequence: Sequence, queries: SequenceOf[NDArray[np.float32]]) -> None:
        """Add the attention of the newest tokens to what their layers have accumulated."""
        self._wait_for_loops()
        numbers = self._budgets.budgeted
        self._threads.map(lambda n: self._accumulate(sequence, n, queries[n]), numbers)

    def compress(self, sequence: Sequence, cache: KVCache) -> bool:
        """Cut ``sequence`` if it is due, and give back every page it no longer needs."""
        self._slide(sequence, cache)
        self.prepare(sequence.num_cached)
        cut = self._planner.due(sequence)
        if cut is None:
            return True
        if not self._budgets.is_over(sequence.lengths, cut.budget):
            if sequence.is_cut_due:
                sequence.pass_cut()
            return True
        if not self._cut(sequence, cut, cache):
            if not sequence.is_cut_due:
                sequence.planned_cuts.insert(0, cut)  # to be made in the same place
            return False
        cache.trim(sequence, reads_on=bool(sequence.planned_cuts))
        return True

    def _wait_for_loops(self) -> None:
        self._loader.begin()
        self._loops.result()

    def _cut(self, sequence: Sequence, cut: Cut, cache: KVCache) -> bool:
        """Cut every layer to its budget; the freed pages stay at the tables' ends."""
        self._wait_for_loops()
        budgeted = self._budgets.budgeted
        measured, attention = None, dict[int, NDArray[np.float32]]()
        if self._budgets.measures(cut):
            measured = self._threads.map(lambda n: self._attention(sequence, n), budgeted)
            attention = dict(zip(budgeted, measured, strict=True))
        held = [sequence.layers[n].length for n in budgeted]
        budgets = self._budgets.divide(cut, held, measured)
        over = {
            number: budget
            for number, budget, tokens in zip(budgeted, budgets, held, strict=True)
            if tokens > budget
        }
        policy = self._policy_for(sequence)
        selector = policy.reading if cut.reads_on else policy.at_end
        moves = self._threads.map(
            lambda n: self._choose(sequence, selector, n, over[n], attention.get(n)), over
        )
        changed = {move.layer: move.changed_pages for move in moves}
        with cache.rewriting(sequence, changed) as tables:
            if tables is None:
                return False
            self._threads.map(lambda move: self._move(sequence, move, tables), moves)
            sequence.note_cut(cut, self._config.recent_size)
        return True

    def _policy_for(self, sequence: Sequence) -> _Policy:
        if not sequence.is_scored:
            return self._unscored_policy
        return self._thorough_policy if sequence.thorough else self._policy

    def _slide(self, sequence: Sequence, cache: KVCache) -> None:
        """Free the pages that have left the window of the layers that have one."""
        if not self._budgets.sliding:
            return
        behind = (sequence.ledger.lengths - self._windows) // PAGE_SIZE
        for number in np.flatnonzero(behind > 0).tolist():
            layer = sequence.layers[number]
            cache.free(number, layer.drop_front_pages(int(behind[number])))
            held_from = int(layer.positions[0, 0])
            window = self._layers[number].sliding_window
            sequence.rewind_floor = max(sequence.rewind_floor, held_from + window)

    def _choose(
        self,
        sequence: Sequence,
        selector: Selector,
        number: int,
        budget: int,
        attention: NDArray[np.float32] | None,
    ) -> Move:
        from ov_kvcrush.runtime.eviction.measuring import key_distinctiveness
        from ov_kvcrush.runtime.eviction.moving import Move
        from ov_kvcrush.runtime.pages.key_codec import KEY_KINDS

        layer, memory = sequence.layers[number], self._memories[number]
        if selector.num_window_queries != self.window_size:
            attention = None  # it was measured through another window
        if attention is None and selector.num_window_queries:
            attention = self._attention(sequence, number, selector.num_window_queries)
        distinctiveness = None
        if selector.needs_distinctiveness:
            kind = KEY_KINDS[memory.layout.key_type]
            table = layer.table
            size = memory.layout.key_head_size
            distinctiveness = layer.in_order(
                key_distinctiveness(memory.keys, kind, table, layer.length, size)
            )
        observation = Observation(
            attention, layer.positions, distinctiveness, layer.attention, layer.comparable_gate
        )
        chosen = selector.select(observation, budget)
        # Pages that are kept whole move whole: no key in them is rounded.
        num_in_order = chosen.shape[1] if selector.page_size > 1 else selector.recent_size
        return Move.of(number, chosen, layer.slots, num_in_order)

    def _move(self, sequence: Sequence, move: Move, tables: SequenceOf[list[int]]) -> None:
        """Move the tokens from the pages of ``tables``, by layer, to those the sequence has now."""
        from ov_kvcrush.runtime.eviction.moving import move_tokens
        from ov_kvcrush.runtime.pages.key_codec import KEY_KINDS

        layer, memory = sequence.layers[move.layer], self._memories[move.layer]
        move_tokens(
            memory.keys,
            KEY_KINDS[memory.layout.key_type],
            memory.values,
            np.array(tables[move.layer], np.int32),
            layer.table,
            move.sources,
            memory.layout.key_head_size,
        )
        layer.keep(move.chosen, move.slots)

    def _attention(
        self, sequence: Sequence, number: int, window: int | None = None
    ) -> NDArray[np.float32]:
        """``[Hq, S]`` attention of the last ``window`` queries (all there are), summed.

        In the order of the text.
        """
        if sequence.window is None:
            raise RuntimeError("a sequence without a query window cannot be cut by attention")
        queries = sequence.window.queries(number)
        length = sequence.layers[number].length
        return self._mass(sequence, number, queries[-window:] if window else queries, length)

    def _accumulate(self, sequence: Sequence, number: int, queries: NDArray[np.float32]) -> None:
        layer, geometry = sequence.layers[number], self._layers[number]
        heads = (len(queries), geometry.num_query_heads, geometry.key_head_size)
        queries = queries.reshape(heads)
        attention = layer.attention
        if attention is None:
            raise RuntimeError("a sequence that accumulates no attention was asked to")
        # In blocks, so that the scores of a block stay in the processor's cache.
        for begin in range(0, len(queries), _ACCUMULATED_AT_ONCE):
            block = queries[begin : begin + _ACCUMULATED_AT_ONCE]
            seen = layer.length - len(queries) + begin + len(block)
            attention[:, :seen] += self._mass(sequence, number, block, seen)

    def _mass(
        self, sequence: Sequence, number: int, queries: NDArray[np.float32], length: int
    ) -> NDArray[np.float32]:
        from ov_kvcrush.runtime.eviction.measuring import attention_mass
        from ov_kvcrush.runtime.pages.key_codec import KEY_KINDS

        layer, memory = sequence.layers[number], self._memories[number]
        kind = KEY_KINDS[memory.layout.key_type]
        table = layer.table
        mass: NDArray[np.float32] = attention_mass(
            queries, self._scales[number], memory.keys, kind, table, length
        )
        return layer.in_order(mass)


def _load_loops(attention: bool, distinctiveness: bool) -> None:
    from ov_kvcrush.runtime.eviction.compiling import compile_loops

    compile_loops(attention, distinctiveness)
