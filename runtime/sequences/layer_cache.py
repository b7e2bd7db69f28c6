"""What one layer holds of one sequence: pages, and which positions lie in which slots."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, pages_for
from ov_kvcrush.runtime.sequences.ledger import Ledger

# Stands for a score that a second reading is still to give: finite, as all that is saved has to be.
NOT_AGAIN = np.finfo(np.float32).min


class LayerCache:
    """What one layer holds of one sequence: pages in order, and the positions in their slots.

    What all layers of the sequence take in at once is written into its arrays when they are asked
    for; ``length`` counts it at once.

    Attributes:
        pages: page numbers; slot ``s`` lies in ``pages[s // 32]``. The list stays as it is: other
            pages are another list.
        table: the same as an int32 array.
        length: slots in use, the same for every KV head.
        positions: ``[H, length]`` true positions of the tokens each head holds, ascending in each
            row: in the order of the text.
        slots: ``[H, length]`` the slot in which each of them lies; the newest lie last, in order.
        attention: ``[Hq, length]`` attention of all queries so far to each of them, summed, or
            None where no policy asks for it.
        gate: ``[H, length]`` how much later text will want each of them, a logarithm: what the
            model's gate said when it was read, or what a second reading looked at, ``NOT_AGAIN``
            for those that were read once; None where nothing is known of some.
        has_gate: whether ``gate`` is kept.
    """

    def __init__(
        self,
        ledger: Ledger,
        number: int,
        heads: slice,
        num_query_heads: int = 0,
        has_gate: bool = False,
    ) -> None:
        """Layer ``number`` of those that ``ledger`` counts.

        ``heads``: its KV heads among those of all layers. ``num_query_heads`` 0: attention is not
        accumulated.
        """
        num_kv_heads = heads.stop - heads.start
        self._ledger = ledger
        self._tail = ledger.tail
        self._number = number
        self._heads = heads
        self._beyond = 0  # what the ledger knows of it
        self._num_written = 0
        self._set_length(0)
        self.pages = []
        self._positions = np.empty((num_kv_heads, 0), np.int32)
        self._slots = np.empty((num_kv_heads, 0), np.int32)
        self._attention = np.empty((num_query_heads, 0), np.float32) if num_query_heads else None
        self.has_gate = has_gate
        self._gate = self._no_scores()

    @property
    def pages(self) -> list[int]:
        """Page numbers, in the order of the slots."""
        return self._pages

    @pages.setter
    def pages(self, pages: list[int]) -> None:
        self._ledger.set_pages(self._number, pages)
        self._pages = pages

    def add_pages(self, pages: list[int]) -> None:
        """Put ``pages``, which nobody else owns, at the end of the table."""
        longer = [*self._pages, *pages]
        self._ledger.add_pages(self._number, pages)
        self._pages = longer

    @property
    def table(self) -> NDArray[np.int32]:
        """``[pages]`` page numbers; a view that changes with them."""
        return self._ledger.tables[self._number, : len(self._pages)]

    @property
    def length(self) -> int:
        """Slots in use."""
        return self._beyond + self._tail.count

    def _set_length(self, length: int) -> None:
        """Hold so many tokens, all of them written out."""
        self._num_written = length
        self._beyond = length - self._tail.count
        self._ledger.set_beyond(self._number, self._beyond)

    def keep_gate(self) -> None:
        """Keep scores from the first token on; it holds none yet."""
        self.has_gate = True
        self._gate = self._no_scores()

    def take_pages(self) -> list[int]:
        """Hold nothing any more; the pages that were on the table."""
        pages, self.pages = self.pages, []
        self._set_length(0)
        self._gate = self._no_scores()  # what is read again is scored again
        return pages

    @property
    def positions(self) -> NDArray[np.int32]:
        """``[H, length]`` true positions, ascending in each row."""
        self.settle()
        return self._positions[:, : self.length]

    @property
    def slots(self) -> NDArray[np.int32]:
        """``[H, length]`` slots of the tokens in the order of the text."""
        self.settle()
        return self._slots[:, : self.length]

    def in_order(self, by_slot: NDArray[np.float32]) -> NDArray[np.float32]:
        """What was measured of the first n slots, ``[H or Hq, n]``, in the order of the text.

        All slots behind the n-th must hold tokens that come later in the text.
        """
        from ov_kvcrush.runtime.pages.rows import take_in_rows  # Numba: not before a cut

        return take_in_rows(by_slot, self.slots[:, : by_slot.shape[1]])

    @property
    def attention(self) -> NDArray[np.float32] | None:
        """``[Hq, length]`` accumulated attention; a view to be added to."""
        self.settle()
        return None if self._attention is None else self._attention[:, : self.length]

    @property
    def gate(self) -> NDArray[np.float32] | None:
        """``[H, length]`` scores of the gate, or of a second reading."""
        self.settle()
        return None if self._gate is None else self._gate[:, : self.length]

    @property
    def comparable_gate(self) -> NDArray[np.float32] | None:
        """The same, with the median of the others for what was not read again.

        What a gate says is on another scale than what a second reading finds.
        """
        gate = self.gate
        if gate is None or not (once := gate == NOT_AGAIN).any():
            return gate
        num_once = once.sum(axis=1, keepdims=True)
        middle = np.minimum((num_once + self.length) // 2, self.length - 1)
        # What was read once comes first in this order.
        return np.where(once, np.take_along_axis(np.sort(gate, axis=1), middle, axis=1), gate)

    @property
    def num_not_again(self) -> int:
        """How many of the newest tokens were not read again."""
        gate = self.gate
        if gate is None:
            return self.length
        again = np.flatnonzero(gate[0] != NOT_AGAIN)
        return self.length - int(again[-1]) - 1 if len(again) else self.length

    def score_newest(self, scores: NDArray[np.float32]) -> None:
        """Let the newest tokens have ``scores [H, n]``."""
        if self.gate is not None:
            self.gate[:, -scores.shape[1] :] = scores

    def settle(self) -> None:
        """Write out what all layers of the sequence have taken in since this one last did."""
        count = self.length - self._num_written
        if count:
            self._write(self._tail.positions(count), self._tail.scores(count, self._heads))

    def append(self, first: int, count: int, gate: NDArray[np.float32] | None = None) -> None:
        """Take in ``count`` tokens, this layer alone, at true positions ``first``, ``first + 1``, …

        ``gate``: ``[count, H]`` scores of them; without, the gate has said nothing of some.
        """
        self.settle()
        self._write(np.arange(first, first + count, dtype=np.int32), gate)
        self._set_length(self._num_written)

    def _write(self, positions: NDArray[np.int32], gate: NDArray[np.float32] | None) -> None:
        begin, end = self._num_written, self._num_written + len(positions)
        self._positions = _with_room(self._positions, begin, end)
        self._positions[:, begin:end] = positions
        self._slots = _with_room(self._slots, begin, end)
        self._slots[:, begin:end] = np.arange(begin, end, dtype=np.int32)
        if self._attention is not None:
            self._attention = _with_room(self._attention, begin, end)
            self._attention[:, begin:end] = 0
        if gate is None:
            self._gate = None
        elif self._gate is not None:
            self._gate = _with_room(self._gate, begin, end)
            self._gate[:, begin:end] = gate.T
        self._num_written = end

    def hold(
        self,
        positions: NDArray[np.int32],
        slots: NDArray[np.int32],
        attention: NDArray[np.float32] | None,
        gate: NDArray[np.float32] | None,
    ) -> None:
        """Hold copies of the attributes of these names, on the pages already on the table."""
        self._positions, self._slots = positions.copy(), slots.copy()
        self._attention = None if attention is None else attention.copy()
        self._gate = gate.copy() if gate is not None and self.has_gate else None
        self._set_length(positions.shape[1])

    def keep(self, chosen: NDArray[np.int32], slots: NDArray[np.int32]) -> None:
        """Hold only the tokens ``chosen [H, K]``, which the kernels have moved to ``slots [H, K]``.

        Both in the order of the text; ``chosen`` counts in that order too.
        """
        from ov_kvcrush.runtime.pages.rows import take_in_rows

        positions = take_in_rows(self.positions, chosen)
        attention = None if self.attention is None else take_in_rows(self.attention, chosen)
        gate = None if self.gate is None else take_in_rows(self.gate, chosen)
        self._positions, self._slots, self._attention = positions, slots, attention
        self._gate = gate
        self._set_length(chosen.shape[1])

    def drop_front_pages(self, count: int) -> list[int]:
        """Forget the first ``count`` full pages of a layer that was never cut; returns them."""
        first = count * PAGE_SIZE
        positions, slots = self.positions[:, first:], self.slots[:, first:] - first
        attention = None if self.attention is None else self.attention[:, first:]
        gate = None if self.gate is None else self.gate[:, first:]
        # All is made before anything changes: what fails above has dropped nothing.
        self._positions, self._slots, self._attention = positions, slots, attention
        self._gate = gate
        self._set_length(self._num_written - first)
        dropped, self.pages = self.pages[:count], self.pages[count:]
        return dropped

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` tokens of this layer alone, as ``follow_rewind``."""
        self.settle()
        self._set_length(self._num_written - count)

    def follow_rewind(self) -> None:
        """Forget what the tail has taken back. The attention it paid stays counted."""
        self._num_written = min(self._num_written, self.length)

    def _no_scores(self) -> NDArray[np.float32] | None:
        return np.empty((len(self._positions), 0), np.float32) if self.has_gate else None

    def surplus_pages(self) -> list[int]:
        """Take the pages behind the last used slot off the table; returns them."""
        needed = pages_for(self.length)
        surplus, self.pages = self.pages[needed:], self.pages[:needed]
        return surplus


def _with_room(slots: NDArray[Any], length: int, end: int) -> NDArray[Any]:
    """``slots [heads, >= length]``, or a larger copy where ``end`` do not fit."""
    if end <= slots.shape[1]:
        return slots
    grown = np.empty((len(slots), max(end, 2 * length)), slots.dtype)
    grown[:, :length] = slots[:, :length]
    return grown
