"""Where the kept tokens of a cut go, and their moving: who stays in its slot, who fills a hole.

A quantized key is rounded anew whenever it moves, so as few as possible do: what lies in the front
slots already stays there, and the holes the evicted ones left are filled from behind. The order in
which tokens lie in slots is free (a key carries its RoPE), but for the newest: they lie last and in
order, because attention masks them by slot and a chat may take back its last ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ov_kvcrush.runtime.pages.jit import jit
from ov_kvcrush.runtime.pages.key_codec import (
    U8,
    Bytes,
    Floats,
    Ints,
    join_bytes,
    read_byte_key,
    read_keys,
    write_keys,
)
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.pages.rows import put_in_rows, take_in_rows
from ov_kvcrush.runtime.pages.vectors import LANES, copy_bytes


@dataclass(frozen=True, eq=False)
class Move:
    """What a cut does to one layer.

    Attributes:
        layer: its number.
        chosen: ``[H, K]`` the kept tokens, counted in the order of the text.
        slots: ``[H, K]`` where they lie afterwards.
        sources: ``[H, K]`` the slot from which each of the first K slots is filled.
    """

    layer: int
    chosen: Ints
    slots: Ints
    sources: Ints

    @classmethod
    def of(cls, layer: int, chosen: Ints, slots: Ints, num_in_order: int) -> Move:
        """The move of ``chosen`` tokens of a layer whose tokens lie in ``slots [H, S]``."""
        before = take_in_rows(slots, chosen)
        after = place(before, num_in_order)
        return cls(layer, chosen, after, put_in_rows(before, after))

    @property
    def changed_pages(self) -> list[int]:
        """Which of the sequence's pages get other content in any head."""
        slots = np.arange(self.sources.shape[1])
        moved = (self.sources != slots).any(axis=0)
        # Page by page: slot by slot it would take as long as a layer's selection.
        changed = np.logical_or.reduceat(moved, slots[::PAGE_SIZE]) if len(slots) else moved
        pages: list[int] = np.flatnonzero(changed).tolist()
        return pages


@jit
def place(slots: Ints, num_in_order: int) -> Ints:
    """New slots of the kept tokens of every head.

    Args:
        slots: ``[H, K]`` where they lie, in the order of the text.
        num_in_order: the newest that are to lie last and in order; K for all of them, which then
            move to the front as they are.

    Returns:
        ``[H, K]`` new slots in the order of the text, a permutation of 0 … K-1 in each row.
    """
    num_heads, count = slots.shape
    num_free = max(count - num_in_order, 0)
    placed = np.empty((num_heads, count), np.int32)
    for h in range(num_heads):
        taken = np.zeros(num_free, np.bool_)
        for i in range(num_free):
            if slots[h, i] < num_free:
                taken[slots[h, i]] = True
        hole = 0
        for i in range(num_free):
            if slots[h, i] < num_free:
                placed[h, i] = slots[h, i]
                continue
            while taken[hole]:
                hole += 1
            placed[h, i] = hole
            hole += 1
        for i in range(num_free, count):
            placed[h, i] = i
    return placed


# Loops instead of slices: what Numba makes of an assigned slice takes it seconds to compile.
@jit
def _copy(source: Bytes | Floats, target: Bytes | Floats) -> None:
    for i in range(len(source)):
        target[i] = source[i]


@jit
def _copy_rows(source: Bytes, target: Bytes) -> None:
    for t in range(len(source)):
        _copy(source[t], target[t])


@jit
def move_tokens(
    key_pages: Bytes,
    kind: int,
    value_pages: Bytes,
    table: Ints,
    targets: Ints,
    sources: Ints,
    head_size: int,
) -> None:
    """Fill the first K slots of every KV head, each head its own.

    What stays in its slot keeps its bytes, unless a key that joins its page lies outside the range
    of the page's scales: then that channel of the page is quantized anew. A page that comes from
    one whole page is copied as it is.

    Args:
        key_pages: ``[pages, H, bytes]``, changed in place.
        kind: storage type of the keys, one of ``KEY_KINDS``.
        value_pages: ``[pages, H, 32, bytes]``, changed in place.
        table: pages of the sequence in order.
        targets: the first pages of the sequence afterwards: as in ``table``, or a new page in place
            of one that is to stay as it is.
        sources: ``[H, K]`` the slot from which each of the first K slots is filled.
        head_size: elements of a key.
    """
    num_kv_heads, count = sources.shape
    page_size = np.int64(PAGE_SIZE)
    num_pages = (count + page_size - 1) // page_size
    keys = np.empty((page_size, head_size), np.float32)
    key_bytes, row_bytes = np.int64(key_pages.shape[2]), np.int64(value_pages.shape[3])
    staying = np.empty(page_size, np.int32)
    came = np.empty(page_size, np.int32)
    joins = kind == U8 and head_size % np.int64(LANES) == 0
    # What another slot is filled from is read from a copy of how it was, unless it lies behind all
    # that is written. Most tokens stay or come from there, so few pages are copied.
    is_copied = np.empty(len(table), np.bool_)
    old_keys = np.empty((num_pages, key_pages.shape[2]), np.uint8)
    old_values = np.empty((num_pages, page_size, value_pages.shape[3]), np.uint8)
    for h in range(num_kv_heads):
        is_copied[:] = False
        for i in range(count):
            slot = sources[h, i]
            if slot != i and slot < num_pages * page_size:
                is_copied[slot // page_size] = True
        for n in range(num_pages):
            if is_copied[n]:
                _copy(key_pages[table[n], h], old_keys[n])
                _copy_rows(value_pages[table[n], h], old_values[n])
        for page in range(num_pages):
            first = page * page_size
            rows = min(page_size, count - first)
            start = sources[h, first]
            num_staying = num_come = 0
            run = True
            for t in range(rows):
                if sources[h, first + t] == first + t:
                    staying[num_staying] = t
                    num_staying += 1
                else:
                    came[num_come] = t
                    num_come += 1
                run &= sources[h, first + t] == start + t
            new_keys, new_values = key_pages[targets[page], h], value_pages[targets[page], h]
            if num_staying and targets[page] != table[page]:
                _copy(key_pages[table[page], h], new_keys)
                _copy_rows(value_pages[table[page], h], new_values)
            if num_staying == rows:
                continue
            if run and start % page_size == 0 and rows == page_size:
                origin = start // page_size
                if is_copied[origin]:
                    _copy(old_keys[origin], new_keys)
                    _copy_rows(old_values[origin], new_values)
                else:
                    _copy(key_pages[table[origin], h], new_keys)
                    _copy_rows(value_pages[table[origin], h], new_values)
                continue
            to = (np.int64(targets[page]) * num_kv_heads + h) * page_size
            # Without views of rows: to make one takes as long as to move the row.
            for i in range(num_come):
                t = np.int64(came[i])
                slot = np.int64(sources[h, first + t])
                origin, row = slot // page_size, slot % page_size
                place = np.int64(table[origin]) * num_kv_heads + h
                if is_copied[origin]:
                    if joins:
                        read_byte_key(old_keys, origin * key_bytes, row, head_size, keys, t)
                    else:
                        read_keys(old_keys[origin], kind, 1, head_size, keys[t:], row)
                    begin = (origin * page_size + row) * row_bytes
                    copy_bytes(old_values, begin, value_pages, (to + t) * row_bytes, row_bytes)
                else:
                    if joins:
                        read_byte_key(key_pages, place * key_bytes, row, head_size, keys, t)
                    else:
                        read_keys(key_pages[table[origin], h], kind, 1, head_size, keys[t:], row)
                    begin = (place * page_size + row) * row_bytes
                    copy_bytes(value_pages, begin, value_pages, (to + t) * row_bytes, row_bytes)
            if joins and num_staying:
                join_bytes(keys, staying[:num_staying], came[:num_come], head_size, new_keys)
            else:
                for i in range(num_staying):
                    t = staying[i]
                    read_keys(new_keys, kind, 1, head_size, keys[t:], t)
                write_keys(keys, rows, head_size, kind, new_keys, num_staying > 0)
