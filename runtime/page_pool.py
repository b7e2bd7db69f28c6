"""Who owns which page: a free list for each layer, and nothing about bytes.

Layers are separate because they may hold different numbers of tokens. Owners keep their page
tables; the pool only knows free from taken, and can be checked against the owners at any moment.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence


class PagePool:
    """Pages ``0 .. num_pages - 1`` of each of ``num_layers`` layers."""

    def __init__(self, num_layers: int, num_pages: int) -> None:
        self.num_layers = num_layers
        self.num_pages = num_pages
        # Lowest page first keeps the used memory together at the front.
        self._free = [list(range(num_pages)) for _ in range(num_layers)]

    def num_free(self, layer: int) -> int:
        """Free pages of ``layer``."""
        return len(self._free[layer])

    def num_used(self, layer: int) -> int:
        """Taken pages of ``layer``."""
        return self.num_pages - len(self._free[layer])

    def can_allocate(self, wanted: Sequence[int]) -> bool:
        """Whether every layer has as many free pages as ``wanted`` says for it."""
        return all(len(free) >= count for free, count in zip(self._free, wanted, strict=True))

    def allocate(self, layer: int, count: int) -> list[int]:
        """Take ``count`` pages of ``layer``.

        Raises:
            RuntimeError: fewer are free; ask ``can_allocate`` first.
        """
        free = self._free[layer]
        if count > len(free):
            raise RuntimeError(f"layer {layer}: {count} pages wanted, {len(free)} free")
        return [heapq.heappop(free) for _ in range(count)]

    def release(self, layer: int, pages: Iterable[int]) -> None:
        """Give pages of ``layer`` back."""
        for page in pages:
            heapq.heappush(self._free[layer], page)

    def check_integrity(self, tables: Iterable[Sequence[Sequence[int]]]) -> None:
        """Prove that free and owned pages together are all pages, each once.

        Args:
            tables: for each owner, its page table of each layer.

        Raises:
            RuntimeError: a page is lost, owned twice, or owned and free.
        """
        owners = list(tables)
        for layer in range(self.num_layers):
            counts = Counter(self._free[layer])
            for table in owners:
                counts.update(table[layer])
            wrong = {page: n for page, n in counts.items() if n != 1}
            lost = set(range(self.num_pages)) - counts.keys()
            foreign = counts.keys() - set(range(self.num_pages))
            if wrong or lost or foreign:
                raise RuntimeError(
                    f"layer {layer}: pages held more than once {wrong}, lost {sorted(lost)}, "
                    f"unknown {sorted(foreign)}"
                )
