"""Where the kept tokens of a cut go: who stays in its slot, and who moves into which hole.

A quantized key is rounded anew whenever it moves, so as few as possible do: what lies in the front
slots already stays there, and the holes the evicted ones left are filled from behind. The order in
which tokens lie in slots is free (a key carries its RoPE), but for the newest: they lie last and in
order, because attention masks them by slot and a chat may take back its last ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ov_kvcrush.runtime.pages.key_codec import Ints, jit
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE


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
        before = np.take_along_axis(slots, chosen, axis=1)
        after = place(before, num_in_order)
        sources = np.empty_like(before)
        np.put_along_axis(sources, after, before, axis=1)
        return cls(layer, chosen, after, sources)

    @property
    def changed_pages(self) -> list[int]:
        """Which of the sequence's pages get other content in any head."""
        moved = (self.sources != np.arange(self.sources.shape[1])).any(axis=0)
        return sorted({int(slot) // PAGE_SIZE for slot in np.flatnonzero(moved)})


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
