"""Who owns which page: a free list for each layer, and a limit in bytes for all together.

Layers are separate because they may hold different numbers of tokens, and store them differently:
a layer may have more pages than its even part, as long as the others have taken less. Several
owners may share a page. Owners keep their page tables; the pool only knows how many owners a taken
page has, and can be checked against them at any moment.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence


class PagePool:
    """Pages ``0 .. layer_pages[n] - 1`` of each layer n, of which ``max_pages`` may be taken.

    Args:
        layer_pages: pages by layer.
        page_bytes: of a page, by layer.
        max_bytes: of the pages that may be taken at a time; None for all.

    Attributes:
        used_bytes: of the taken pages.
    """

    def __init__(
        self,
        layer_pages: Sequence[int],
        page_bytes: Sequence[int],
        max_bytes: int | None = None,
    ) -> None:
        self.layer_pages = tuple(layer_pages)
        self.page_bytes = tuple(page_bytes)
        self.max_bytes = self._bytes(layer_pages) if max_bytes is None else max_bytes
        self.used_bytes = 0
        # Lowest page first keeps the used memory together at the front.
        self._free = [list(range(count)) for count in layer_pages]
        self._owners: list[dict[int, int]] = [{} for _ in layer_pages]

    @property
    def num_layers(self) -> int:
        """Layers."""
        return len(self.layer_pages)

    def num_free(self, layer: int) -> int:
        """Free pages of ``layer``, as far as the limit allows to take them."""
        left = self.max_bytes - self.used_bytes
        return min(len(self._free[layer]), left // self.page_bytes[layer])

    def num_used(self, layer: int) -> int:
        """Taken pages of ``layer``."""
        return self.layer_pages[layer] - len(self._free[layer])

    def could_hold(self, pages: Sequence[int]) -> bool:
        """Whether ``pages`` by layer would fit if all were free."""
        fits = all(n <= count for n, count in zip(pages, self.layer_pages, strict=True))
        return fits and self._bytes(pages) <= self.max_bytes

    def can_allocate(self, wanted: Sequence[int]) -> bool:
        """Whether as many pages of each layer as ``wanted`` says are free, within the limit."""
        fits = all(len(free) >= count for free, count in zip(self._free, wanted, strict=True))
        return fits and self.used_bytes + self._bytes(wanted) <= self.max_bytes

    def allocate(self, layer: int, count: int) -> list[int]:
        """Take ``count`` pages of ``layer`` for one owner.

        Raises:
            RuntimeError: fewer are free; ask ``can_allocate`` first.
        """
        free = self._free[layer]
        if count > self.num_free(layer):
            raise RuntimeError(f"layer {layer}: {count} pages wanted, {self.num_free(layer)} free")
        self.used_bytes += count * self.page_bytes[layer]
        pages = [heapq.heappop(free) for _ in range(count)]
        self._owners[layer].update(dict.fromkeys(pages, 1))
        return pages

    def share(self, layer: int, pages: Iterable[int]) -> None:
        """Give taken ``pages`` of ``layer`` one more owner each."""
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
        owners, freed = self._owners[layer], []
        for page in pages:
            owners[page] -= 1
            if not owners[page]:
                del owners[page]
                heapq.heappush(self._free[layer], page)
                self.used_bytes -= self.page_bytes[layer]
                freed.append(page)
        return freed

    def check_integrity(self, tables: Iterable[Sequence[Sequence[int]]]) -> None:
        """Prove that every page is free or taken, and has as many owners as the pool counts.

        Args:
            tables: for each owner, its page table of each layer.

        Raises:
            RuntimeError: a page is lost, has other owners than counted, or is owned and free.
        """
        owners = list(tables)
        if self.used_bytes != self._bytes([self.num_used(n) for n in range(self.num_layers)]):
            raise RuntimeError(f"{self.used_bytes} bytes are counted as used, which is not so")
        for layer in range(self.num_layers):
            free, counted = self._free[layer], self._owners[layer]
            found = Counter(page for table in owners for page in table[layer])
            every = set(range(self.layer_pages[layer]))
            misplaced = Counter([*free, *counted])
            wrong = {page for page, n in misplaced.items() if n != 1}
            lost = every - misplaced.keys()
            foreign = (misplaced.keys() | found.keys()) - every
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

    def _bytes(self, pages: Sequence[int]) -> int:
        return sum(count * size for count, size in zip(pages, self.page_bytes, strict=True))
