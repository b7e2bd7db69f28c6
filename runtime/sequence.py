"""One sequence: its tokens, and for each layer which positions lie in which slots and pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.cache_layout import PAGE_SIZE
from ov_kvcrush.runtime.cut_plan import PlannedCut
from ov_kvcrush.runtime.query_window import QueryWindow


class LayerCache:
    """What one layer holds of one sequence: pages in order, and the positions in their slots.

    Attributes:
        pages: page numbers; slot ``s`` lies in ``pages[s // 32]``.
        length: slots in use, the same for every KV head.
        positions: ``[H, length]`` true positions of the tokens each head holds, ascending in each
            row: in the order of the text.
        slots: ``[H, length]`` the slot in which each of them lies; the newest lie last, in order.
        attention: ``[Hq, length]`` attention of all queries so far to each of them, summed, or
            None where no policy asks for it.
    """

    def __init__(self, num_kv_heads: int, num_query_heads: int = 0) -> None:
        """``num_query_heads`` 0: attention is not accumulated."""
        self.pages: list[int] = []
        self.length = 0
        self._positions = np.empty((num_kv_heads, 0), np.int32)
        self._slots = np.empty((num_kv_heads, 0), np.int32)
        self._attention = np.empty((num_query_heads, 0), np.float32) if num_query_heads else None

    def clear(self) -> None:
        """Hold nothing any more."""
        self.pages = []
        self.length = 0

    @property
    def positions(self) -> NDArray[np.int32]:
        """``[H, length]`` true positions, ascending in each row."""
        return self._positions[:, : self.length]

    @property
    def slots(self) -> NDArray[np.int32]:
        """``[H, length]`` slots of the tokens in the order of the text."""
        return self._slots[:, : self.length]

    def in_order(self, by_slot: NDArray[np.float32]) -> NDArray[np.float32]:
        """What was measured of the first n slots, ``[H or Hq, n]``, in the order of the text.

        All slots behind the n-th must hold tokens that come later in the text.
        """
        slots = self.slots[:, : by_slot.shape[1]]
        group = len(by_slot) // len(slots)
        return np.take_along_axis(by_slot, np.repeat(slots, group, axis=0), axis=1)

    @property
    def attention(self) -> NDArray[np.float32] | None:
        """``[Hq, length]`` accumulated attention; a view to be added to."""
        return None if self._attention is None else self._attention[:, : self.length]

    def append(self, first: int, count: int) -> None:
        """Take in ``count`` new tokens at true positions ``first``, ``first + 1``, …"""
        begin, end = self.length, self.length + count
        self._positions = _with_room(self._positions, begin, end)
        self._positions[:, begin:end] = np.arange(first, first + count, dtype=np.int32)
        self._slots = _with_room(self._slots, begin, end)
        self._slots[:, begin:end] = np.arange(begin, end, dtype=np.int32)
        if self._attention is not None:
            self._attention = _with_room(self._attention, begin, end)
            self._attention[:, begin:end] = 0
        self.length = end

    def hold(
        self,
        positions: NDArray[np.int32],
        slots: NDArray[np.int32],
        attention: NDArray[np.float32] | None,
    ) -> None:
        """Hold copies of the attributes of these names, on the pages already on the table."""
        self._positions, self._slots = positions.copy(), slots.copy()
        self._attention = None if attention is None else attention.copy()
        self.length = positions.shape[1]

    def keep(self, chosen: NDArray[np.int32], slots: NDArray[np.int32]) -> None:
        """Hold only the tokens ``chosen [H, K]``, which the kernels have moved to ``slots [H, K]``.

        Both in the order of the text; ``chosen`` counts in that order too.
        """
        self._positions = np.take_along_axis(self.positions, chosen, axis=1)
        self._slots = slots
        if self.attention is not None:
            group = len(self.attention) // len(chosen)
            by_query_head = np.repeat(chosen, group, axis=0)
            self._attention = np.take_along_axis(self.attention, by_query_head, axis=1)
        self.length = chosen.shape[1]

    def drop_front_pages(self, count: int) -> list[int]:
        """Forget the first ``count`` full pages of a layer that was never cut; returns them."""
        dropped, self.pages = self.pages[:count], self.pages[count:]
        self._positions = self.positions[:, count * PAGE_SIZE :]
        self._slots = self.slots[:, count * PAGE_SIZE :] - count * PAGE_SIZE
        if self.attention is not None:
            self._attention = self.attention[:, count * PAGE_SIZE :]
        self.length -= count * PAGE_SIZE
        return dropped

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` tokens. The attention they paid stays counted."""
        self.length -= count

    def surplus_pages(self) -> list[int]:
        """Take the pages behind the last used slot off the table; returns them."""
        needed = pages_for(self.length)
        surplus, self.pages = self.pages[needed:], self.pages[:needed]
        return surplus


class Sequence:
    """Tokens and cache of one sequence.

    Attributes:
        tokens: prompt and generated token ids.
        num_cached: how many of ``tokens`` the caches have read.
        layers: the cache of each layer.
        window: queries of the last cached tokens, or None where nothing is ever evicted.
        rewind_floor: the cache can be taken back to this many tokens and no further: what lies
            before has been chosen from, or has slid out of a window.
        cuts: those so far.
        planned_cuts: those that are to come, in order.
        num_reused: how many of ``tokens`` it did not have to read, for others had.
    """

    def __init__(
        self,
        tokens: list[int],
        layers: tuple[LayerGeometry, ...],
        window_size: int | None,
        accumulates: bool = False,
    ) -> None:
        """``accumulates``: the attention of all queries is summed up, layer by layer."""
        self.tokens = tokens
        self._geometry = layers
        self.num_cached = 0
        self.layers = [
            LayerCache(layer.num_kv_heads, layer.num_query_heads if accumulates else 0)
            for layer in layers
        ]
        self.window = None if window_size is None else QueryWindow(layers, window_size)
        self.accumulates = accumulates
        self.rewind_floor = 0
        self.cuts: list[PlannedCut] = []
        self.planned_cuts: list[PlannedCut] = []
        self.num_reused = 0

    @property
    def num_uncached(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.tokens) - self.num_cached

    @property
    def is_cut_due(self) -> bool:
        """Whether it stands at the next planned cut."""
        return bool(self.planned_cuts) and self.planned_cuts[0].num_cached == self.num_cached

    @property
    def next_stretch(self) -> int:
        """Uncached tokens up to the next planned cut, which a chunk must not run past."""
        if not self.planned_cuts:
            return self.num_uncached
        return min(self.num_uncached, self.planned_cuts[0].num_cached - self.num_cached)

    @property
    def lengths(self) -> list[int]:
        """Tokens each layer holds."""
        return [layer.length for layer in self.layers]

    @property
    def num_kept(self) -> int:
        """Tokens a layer holds, on average."""
        return round(sum(self.lengths) / len(self.layers))

    @property
    def page_tables(self) -> list[list[int]]:
        """Page table of each layer."""
        return [layer.pages for layer in self.layers]

    def pages_wanted(self, count: int) -> list[int]:
        """Pages each layer lacks to take ``count`` more tokens."""
        return [max(0, pages_for(c.length + count) - len(c.pages)) for c in self.layers]

    def append(self, count: int) -> None:
        """Note that the next ``count`` tokens are in the cache now."""
        for layer in self.layers:
            layer.append(self.num_cached, count)
        self.num_cached += count

    def can_rewind_to(self, num_cached: int) -> bool:
        """Whether the cache can be taken back to its first ``num_cached`` tokens."""
        return self.rewind_floor <= num_cached <= self.num_cached

    def rewind_to(self, num_cached: int) -> None:
        """Take cache and tokens back to the first ``num_cached`` tokens (pages stay on the tables).

        Raises:
            RuntimeError: ask ``can_rewind_to`` first.
        """
        self.rewind_cache_to(num_cached)
        del self.tokens[num_cached:]

    def rewind_cache_to(self, num_cached: int) -> None:
        """Take the cache alone back: tokens behind the first ``num_cached`` are to be read again.

        Raises:
            RuntimeError: ask ``can_rewind_to`` first.
        """
        if not self.can_rewind_to(num_cached):
            raise RuntimeError(f"cannot rewind from {self.num_cached} to {num_cached} tokens")
        count = self.num_cached - num_cached
        for layer in self.layers:
            layer.rewind(count)
        if self.window is not None:
            self.window.rewind(count)
        self.num_cached = num_cached

    def twin(self, tokens: list[int]) -> Sequence:
        """A sequence of ``tokens`` of the same kind that holds nothing."""
        window = None if self.window is None else self.window.size
        return Sequence(tokens, self._geometry, window, self.accumulates)

    def clone_into(self, other: Sequence) -> None:
        """Make ``other`` hold what this one holds, on the pages already on its tables."""
        for mine, its in zip(self.layers, other.layers, strict=True):
            its.hold(mine.positions, mine.slots, mine.attention)
        if self.window is not None and other.window is not None:
            other.window.copy_from(self.window)
        other.num_cached = self.num_cached
        other.rewind_floor = self.rewind_floor
        other.cuts = list(self.cuts)

    def forget_cache(self) -> None:
        """Hold nothing any more, and plan to make the same cuts again.

        The pages must have been given back.
        """
        for layer in self.layers:
            layer.clear()
        if self.window is not None:
            self.window.rewind(self.num_cached)
        self.num_cached = 0
        self.rewind_floor = 0
        self.planned_cuts = self.cuts + self.planned_cuts
        self.cuts = []


def sequence_on_pages(
    tokens: Iterable[int], layers: tuple[LayerGeometry, ...], first_page: int = 0
) -> Sequence:
    """``tokens`` without a policy, on as many pages as they take: ``first_page`` and on.

    For measurements, which need neither a pool nor a scheduler.
    """
    sequence = Sequence(list(tokens), layers, None)
    for layer in sequence.layers:
        layer.pages = list(range(first_page, first_page + pages_for(len(sequence.tokens))))
    return sequence


def _with_room(slots: NDArray[Any], length: int, end: int) -> NDArray[Any]:
    """``slots [heads, >= length]``, or a larger copy where ``end`` do not fit."""
    if end <= slots.shape[1]:
        return slots
    grown = np.empty((len(slots), max(end, 2 * length)), slots.dtype)
    grown[:, :length] = slots[:, :length]
    return grown


def pages_for(tokens: int) -> int:
    """Pages that ``tokens`` tokens take."""
    return -(-tokens // PAGE_SIZE)
