"""How much all layers of a sequence hold, as arrays: what a step asks of every one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.sequences.tail import Tail


class Ledger:
    """Lengths and tables of the layers of one sequence, counted.

    Layers enter what changes for one of them; what all of them take in is in the tail alone.

    Attributes:
        tail: the newest tokens of all layers.
        num_pages: ``[layers]`` int64, pages on each layer's table.
        tables: ``[layers, most pages]`` int32, page tables; behind ``num_pages`` anything.
    """

    def __init__(self, num_layers: int) -> None:
        self.tail = Tail()
        self.num_pages = np.zeros(num_layers, np.int64)
        self.tables = np.zeros((num_layers, 0), np.int32)
        # A layer holds what the tail has counted and so many tokens more, usually less.
        self._beyond = np.zeros(num_layers, np.int64)
        # Until the tail has counted so many tokens no layer needs another page; None if unknown.
        self._full_at: int | None = None
        self._alone_since: int | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``[layers]`` tokens each layer holds."""
        return self._beyond + self.tail.count

    def set_beyond(self, number: int, beyond: int) -> None:
        """Layer ``number`` holds so many tokens more than the tail has counted."""
        self._beyond[number] = beyond
        self.note_change()

    def set_pages(self, number: int, pages: Sequence[int]) -> None:
        """Layer ``number`` has another table."""
        if len(pages) > self.tables.shape[1]:
            self._widen(len(pages))
        self.tables[number, : len(pages)] = pages
        self.num_pages[number] = len(pages)
        self.note_change()

    def add_pages(self, number: int, pages: Sequence[int]) -> None:
        """The table of layer ``number`` goes on with ``pages``, which nobody else owns."""
        begin = int(self.num_pages[number])
        end = begin + len(pages)
        if end > self.tables.shape[1]:
            self._widen(end)
        self.tables[number, begin:end] = pages
        self.num_pages[number] = end
        self._full_at = None

    def _widen(self, count: int) -> None:
        num_layers, most = self.tables.shape
        tables = np.zeros((num_layers, max(count, most + most // 2)), np.int32)
        tables[:, :most] = self.tables
        self.tables = tables

    def note_change(self) -> None:
        """Forget what was known of the next tokens: they go to other pages than before."""
        self._full_at = self._alone_since = None

    def pages_wanted(self, count: int) -> NDArray[np.int64]:
        """``[layers]`` pages each layer lacks to take ``count`` more tokens."""
        wanted = (self.lengths + (count + PAGE_SIZE - 1)) // PAGE_SIZE - self.num_pages
        lacking: NDArray[np.int64] = np.maximum(wanted, 0)
        return lacking

    def num_surplus(self) -> NDArray[np.int64]:
        """``[layers]`` pages behind the last used slot of each layer."""
        return self.num_pages - (self.lengths + (PAGE_SIZE - 1)) // PAGE_SIZE

    # ------------------------------------------------------------- what a step may take for granted

    def is_alone(self, num_shares: int) -> bool:
        """Whether all pages that are still to be written to are known to be its own.

        ``num_shares``: of the pool. What was its own is so until somebody shares anything.
        """
        return self._alone_since == num_shares

    def note_alone(self, num_shares: int) -> None:
        """Know it from now on."""
        self._alone_since = num_shares

    def room(self, num_shares: int) -> int:
        """Tokens that all layers can take as they are, without a page and without a copy of one.

        -1 where even none may be too many: a page that is to be written to may not be its own.
        """
        if self._alone_since != num_shares:
            return -1
        if self._full_at is None:
            self._full_at = int((self.num_pages * PAGE_SIZE - self._beyond).min())
        return self._full_at - self.tail.count
