"""The sequences' share of the cache: pages in all layers at once, and the bytes behind them."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

from ov_kvcrush.runtime.cache_memory import CacheMemory
from ov_kvcrush.runtime.page_pool import PagePool
from ov_kvcrush.runtime.request import Session
from ov_kvcrush.runtime.sequence import Sequence, pages_for


class KVCache:
    """Gives sequences their pages and takes them back.

    Chats between two requests are parked: they keep their pages as long as no running sequence
    needs them; then the one parked longest loses its cache.

    Attributes:
        pool: who owns which page.
        memories: the bytes, by layer.
    """

    def __init__(self, pool: PagePool, memories: SequenceOf[CacheMemory]) -> None:
        self.pool = pool
        self.memories = memories
        self._parked: list[Session] = []

    def extend(self, sequence: Sequence, count: int) -> bool:
        """Give ``sequence`` the pages for ``count`` more tokens; False if they cannot be had."""
        wanted = sequence.pages_wanted(count)
        while not self.pool.can_allocate(wanted):
            if not self._parked:
                return False
            self._drop(self._parked.pop(0))
        for number, pages in enumerate(wanted):
            if pages:
                sequence.layers[number].pages += self.pool.allocate(number, pages)
        return True

    def trim(self, sequence: Sequence) -> None:
        """Take back the pages behind the last used slot of each layer."""
        for number, layer in enumerate(sequence.layers):
            self.free(number, layer.surplus_pages())

    def release(self, sequence: Sequence) -> None:
        """Take back all pages; the sequence holds nothing afterwards."""
        for number, layer in enumerate(sequence.layers):
            self.free(number, layer.pages)
        sequence.forget_cache()

    def free(self, layer: int, pages: list[int]) -> None:
        """Take ``pages`` of ``layer`` back, and their memory from the process."""
        if pages:
            self.pool.release(layer, pages)
            self.memories[layer].give_back(pages)

    def copy(self, source: Sequence, target: Sequence) -> bool:
        """Make ``target``, which holds nothing, hold a copy; False if pages are short."""
        if not self.pool.can_allocate([pages_for(layer.length) for layer in source.layers]):
            return False
        for number, layer in enumerate(source.layers):
            pages = self.pool.allocate(number, pages_for(layer.length))
            for origin, page in zip(layer.pages, pages, strict=False):
                self.memories[number].copy_page(origin, page)
            target.layers[number].pages = pages
        source.clone_into(target)
        return True

    def park(self, session: Session, sequence: Sequence) -> None:
        """Leave ``sequence`` with a chat that may come back for it."""
        self.trim(sequence)
        session.sequence = sequence
        self._parked.append(session)

    def unpark(self, session: Session) -> Sequence | None:
        """Take the sequence of ``session`` back, if it still has one."""
        if session not in self._parked:
            return None
        self._parked.remove(session)
        sequence, session.sequence = session.sequence, None
        return sequence

    def bytes_of(self, sequence: Sequence) -> int:
        """Bytes of the pages ``sequence`` holds."""
        layers = zip(sequence.layers, self.pool.page_bytes, strict=True)
        return sum(len(layer.pages) * page for layer, page in layers)

    def bytes_for(self, num_tokens: int) -> int:
        """Bytes of the pages ``num_tokens`` take where nothing is evicted."""
        return pages_for(num_tokens) * sum(self.pool.page_bytes)

    @property
    def used_bytes(self) -> int:
        """Bytes of all taken pages."""
        return self.pool.used_bytes

    @property
    def max_bytes(self) -> int:
        """Bytes of all pages that may be taken at a time; memory backs only those in use."""
        return self.pool.max_bytes

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Prove that every page is free or owned once, by ``running`` or parked sequences.

        Raises:
            RuntimeError: it is not so.
        """
        parked = [s.sequence.page_tables for s in self._parked if s.sequence is not None]
        self.pool.check_integrity([*(s.page_tables for s in running), *parked])

    def _drop(self, session: Session) -> None:
        if session.sequence is not None:
            self.release(session.sequence)
            session.sequence = None
