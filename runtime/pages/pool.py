"""Who owns which page: those free in each layer, and a limit in bytes for all together.

Layers are separate because they may hold different numbers of tokens, and store them differently:
a layer may have more pages than its even part, as long as the others have taken less. Several
owners may share a page. Owners keep their page tables; the pool only knows how many owners a taken
page has, and can be checked against them at any moment.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Counts = Sequence[int] | NDArray[np.int64]
"""Pages by layer."""


class PagePool:
    """Pages ``0 .. layer_pages[n] - 1`` of each layer n, of which ``max_bytes`` may be taken.

    Args:
        layer_pages: pages by layer.
        page_bytes: of a page, by layer.
        max_bytes: of the pages that may be taken at a time; None for all.

    Attributes:
        used_bytes: of the taken pages.
        num_shares: how often pages were given more owners: as long as it stays, what belongs to one
            owner belongs to no other.
    """

    def __init__(
        self,
        layer_pages: Sequence[int],
        page_bytes: Sequence[int],
        max_bytes: int | None = None,
    ) -> None:
        self.layer_pages = tuple(layer_pages)
        self.page_bytes = tuple(page_bytes)
        self._page_bytes = np.array(page_bytes, np.int64)
        self.max_bytes = self.bytes_of(layer_pages) if max_bytes is None else max_bytes
        self.used_bytes = 0
        self.num_shares = 0
        # Lowest page first keeps the used memory together at the front: those that came back, and
        # then the first one of those that were never taken, which need no list.
        self._returned: list[list[int]] = [[] for _ in layer_pages]
        self._untouched = [0 for _ in layer_pages]
        self._num_free = np.array(layer_pages, np.int64)
        self._owners: list[dict[int, int]] = [{} for _ in layer_pages]

    @property
    def num_layers(self) -> int:
        """Layers."""
        return len(self.layer_pages)

    def num_free(self, layer: int) -> int:
        """Free pages of ``layer``, as far as the limit allows to take them."""
        left = self.max_bytes - self.used_bytes
        return min(int(self._num_free[layer]), left // self.page_bytes[layer])

    def num_used(self, layer: int) -> int:
        """Taken pages of ``layer``."""
        return self.layer_pages[layer] - int(self._num_free[layer])

    def bytes_of(self, pages: Counts) -> int:
        """Bytes of so many pages of each layer."""
        return int(self._page_bytes @ np.asarray(pages, np.int64))

    def could_hold(self, pages: Counts) -> bool:
        """Whether ``pages`` by layer would fit if all were free."""
        fits = bool((np.asarray(pages) <= self.layer_pages).all())
        return fits and self.bytes_of(pages) <= self.max_bytes

    def can_allocate(self, wanted: Counts) -> bool:
        """Whether as many pages of each layer as ``wanted`` says are free, within the limit."""
        fits = bool((self._num_free >= wanted).all())
        return fits and self.used_bytes + self.bytes_of(wanted) <= self.max_bytes

    def allocate(self, layer: int, count: int) -> list[int]:
        """Take ``count`` pages of ``layer`` for one owner.

        Raises:
            RuntimeError: fewer are free; ask ``can_allocate`` first.
        """
        if count > self.num_free(layer):
            raise RuntimeError(f"layer {layer}: {count} pages wanted, {self.num_free(layer)} free")
        returned, untouched = self._returned[layer], self._untouched[layer]
        pages = [heapq.heappop(returned) for _ in range(min(count, len(returned)))]
        pages += range(untouched, untouched + count - len(pages))
        self._untouched[layer] = max(untouched, pages[-1] + 1) if pages else untouched
        self._owners[layer].update(dict.fromkeys(pages, 1))
        self._num_free[layer] -= count
        self.used_bytes += count * self.page_bytes[layer]
        return pages

    def share(self, layer: int, pages: Iterable[int]) -> None:
        """Give taken ``pages`` of ``layer`` one more owner each."""
        self.num_shares += 1
        owners = self._owners[layer]
        for page in pages:
            owners[page] += 1

    def is_shared(self, layer: int, page: int) -> bool:
        """Whether the taken ``page`` of ``layer`` has several owners, so none may change it."""
        return self._owners[layer][page] > 1

    def release(self, layer: int, pages: Iterable[int]) -> list[int]:
        """Take one owner from each of ``pages`` of ``layer``; those that have none left are free.

        Returns:
            The pages that became free.
        """
        owners, returned, freed = self._owners[layer], self._returned[layer], []
        for page in pages:
            left = owners[page] - 1
            if left:
                owners[page] = left
            else:
                del owners[page]
                heapq.heappush(returned, page)
                freed.append(page)
        self._num_free[layer] += len(freed)
        self.used_bytes -= len(freed) * self.page_bytes[layer]
        return freed

    def check_integrity(self, tables: Iterable[Sequence[Sequence[int]]]) -> None:
        """Prove that every page is free or taken, and has as many owners as the pool counts.

        Args:
            tables: for each owner, its page table of each layer.

        Raises:
            RuntimeError: a page is lost, has other owners than counted, or is owned and free.
        """
        owners = list(tables)
        if self.used_bytes != self.bytes_of(list(map(len, self._owners))):
            raise RuntimeError(f"{self.used_bytes} bytes are counted as used, which is not so")
        for layer in range(self.num_layers):
            self._check_layer(layer, Counter(page for table in owners for page in table[layer]))

    def _check_layer(self, layer: int, found: Counter[int]) -> None:
        """The same of one layer, whose pages were ``found`` with so many owners."""
        counted, untouched = self._owners[layer], self._untouched[layer]
        if self.num_used(layer) != len(counted):
            raise RuntimeError(
                f"layer {layer}: {self.num_used(layer)} pages are counted as used, and "
                f"{len(counted)} have owners"
            )
        # Those from the first untouched one on are free, and must be so in no other way.
        every, placed = range(self.layer_pages[layer]), Counter([*self._returned[layer], *counted])
        wrong = {page for page, n in placed.items() if n != 1 or page in every[untouched:]}
        lost = set(every[:untouched]) - placed.keys()
        foreign = {page for page in placed.keys() | found.keys() if page not in every}
        miscounted = {
            page: (counted.get(page, 0), found[page])
            for page in counted.keys() | found.keys()
            if counted.get(page, 0) != found[page]
        }
        if wrong or lost or foreign or miscounted:
            raise RuntimeError(
                f"layer {layer}: pages in two places {sorted(wrong)}, lost {sorted(lost)}, "
                f"unknown {sorted(foreign)}, owners (counted, found) {miscounted}"
            )
