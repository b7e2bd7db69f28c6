"""The sequences' share of the cache: pages in all layers at once, and the bytes behind them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, pages_for
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.pages.pool import Counts, PagePool
from ov_kvcrush.runtime.sequences.parking import Parking
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.sequences.session import Session


class KVCache:
    """Gives sequences their pages and takes them back.

    Sequences may share pages; one that is to write to a shared page gets a page of its own in its
    place. Chats between two requests and prefixes that others may begin with are parked: they keep
    their pages as long as somebody holds their session and no running sequence needs them; then
    the one used longest ago loses its cache, unless it is pinned.

    Attributes:
        pool: who owns which page.
        memories: the bytes, by layer.
    """

    def __init__(self, pool: PagePool, memories: SequenceOf[CacheMemory]) -> None:
        self.pool = pool
        self.memories = memories
        self._parking = Parking()
        # By layer, free pages whose memory has not been given back, as they will soon be taken.
        self._warm: list[set[int]] = [set() for _ in memories]

    def extend(self, sequence: Sequence, count: int) -> bool:
        """Give ``sequence`` the pages for ``count`` more tokens; False if they cannot be had.

        Pages that are shared and to be written to are copied: a last one that is not full.
        """
        if sequence.ledger.room(self.pool.num_shares) >= count:
            return True

        def lacking() -> NDArray[np.int64]:
            wanted = sequence.ledger.pages_wanted(count)
            for number, _ in self._shared_open_pages(sequence):
                wanted[number] += 1
            return wanted

        if not self._make_room(lacking):
            return False
        for number, place in list(self._shared_open_pages(sequence)):
            self._copy_page(sequence, number, place)
        sequence.ledger.note_alone(self.pool.num_shares)
        lacks = sequence.ledger.pages_wanted(count)
        for number in np.flatnonzero(lacks).tolist():
            self._add_pages(sequence, number, int(lacks[number]))
        return True

    def extend_freely(self, sequence: Sequence, count: int) -> bool:
        """The same, unless somebody would have to give up pages for it."""
        room = sequence.ledger.room(self.pool.num_shares)
        if room < count and not self.pool.can_allocate(sequence.ledger.pages_wanted(count)):
            return False
        return room >= 0 and self.extend(sequence, count)

    @contextmanager
    def rewriting(
        self, sequence: Sequence, places: Mapping[int, SequenceOf[int]]
    ) -> Iterator[list[list[int]] | None]:
        """Let ``sequence`` have to itself what is rewritten inside the ``with``.

        Pages that others own too are replaced on its tables by new ones, which are still empty; it
        lets go of the old ones when the ``with`` ends, however it does. Where that is by an
        exception, the pages hold anything: the sequence has to give them up.

        Args:
            sequence: its tables are changed.
            places: by layer, which pages of the table are to be written to.

        Yields:
            The tables as they were; None, and nothing is changed, if the pages cannot be had.
        """

        def shared(number: int) -> list[int]:
            pages = sequence.layers[number].pages
            return [n for n in places.get(number, ()) if self.pool.is_shared(number, pages[n])]

        numbers = range(len(sequence.layers))
        if not self._make_room(lambda: [len(shared(number)) for number in numbers]):
            yield None
            return
        before = sequence.page_tables
        try:
            for number in numbers:
                replaced = shared(number)
                new = self._allocate(number, len(replaced))
                table = list(before[number])
                for place, page in zip(replaced, new, strict=True):
                    table[place] = page
                sequence.layers[number].pages = table
            yield before
        finally:
            for number, pages in enumerate(before):
                now = sequence.layers[number].pages
                self.free(number, [old for old, new in zip(pages, now, strict=True) if old != new])

    def trim(self, sequence: Sequence, reads_on: bool = False) -> None:
        """Take back the pages behind the last used slot of each layer.

        ``reads_on``: it takes as many again in the next step, so that their memory stays until
        somebody takes or frees pages: to give it back and to have it anew takes as long as the cut.
        """
        for number in np.flatnonzero(sequence.ledger.num_surplus() > 0).tolist():
            surplus = sequence.layers[number].surplus_pages()
            if reads_on:
                self._warm[number].update(self.pool.release(number, surplus))
            else:
                self.free(number, surplus)

    def release(self, sequence: Sequence) -> None:
        """Take back all pages; the sequence holds nothing afterwards."""
        for number, layer in enumerate(sequence.layers):
            self.free(number, layer.take_pages())
        sequence.forget_cache()

    @contextmanager
    def released_on_failure(self, sequence: Sequence) -> Iterator[None]:
        """Take back all pages of ``sequence`` if the ``with`` ends by an exception.

        For what nobody else knows yet, or what may have been changed by half.
        """
        try:
            yield
        except BaseException:
            self.release(sequence)
            raise

    def free(self, layer: int, pages: list[int]) -> None:
        """Let go of ``pages`` of ``layer``; the memory of those nobody else owns is given back."""
        self._give_back(layer, self.pool.release(layer, pages))

    def fork(self, source: Sequence, target: Sequence) -> None:
        """Make ``target``, which holds nothing, hold what ``source`` holds, on the same pages.

        All of it or nothing: some of the pages without the rest would be written to.
        """
        with self.released_on_failure(target):
            for number, layer in enumerate(source.layers):
                pages = layer.pages[: pages_for(layer.length)]
                self._share_pages(target, number, pages)
            source.clone_into(target)

    def lend(self, source: Sequence, target: Sequence, count: int, layers: Container[int]) -> None:
        """Make ``target``, which holds nothing, read on behind a part of ``source``, on its pages.

        Args:
            source: not changed.
            target: bare, its tokens begin as those of ``source``; it counts all of them as read.
            count: newest tokens that it sees, beside the first page.
            layers: where it sees no others; it sees all in the rest.
        """
        with self.released_on_failure(target):
            for number, layer in enumerate(source.layers):
                pages = layer.pages[: pages_for(layer.length)]
                hidden = max(0, (layer.length - count) // PAGE_SIZE - 1) if number in layers else 0
                pages = pages[:1] + pages[1 + hidden :]
                self._share_pages(target, number, pages)
                target.layers[number].append(0, layer.length - hidden * PAGE_SIZE)
            target.num_cached = source.num_cached

    # ------------------------------------------------------------- parked chats and prefixes

    @property
    def parked(self) -> SequenceOf[Session]:
        """Those that are parked, the one used longest ago first."""
        self._release_forgotten()
        return self._parking.sessions

    def park(self, session: Session, sequence: Sequence) -> None:
        """Leave ``sequence`` with ``session``, which may come back for it, if it holds anything.

        It is the cache's from then on: what cannot be parked is released.
        """
        self._release_forgotten()
        with self.released_on_failure(sequence):
            self.trim(sequence)
        if not sequence.num_cached:
            self.release(sequence)
            return
        session.sequence = sequence
        self._parking.put(session, sequence)

    def unpark(self, session: Session) -> Sequence | None:
        """Take the sequence of ``session`` back, if it still has one."""
        self._release_forgotten()
        sequence = self._parking.take(session)
        if sequence is not None:
            session.sequence = None
        return sequence

    def touch(self, session: Session) -> None:
        """Note that a parked ``session`` was used just now."""
        self._parking.touch(session)

    def drop(self, session: Session) -> None:
        """Free what ``session`` has parked, if anything."""
        sequence = self.unpark(session)
        if sequence is not None:
            self.release(sequence)

    def _release_forgotten(self) -> bool:
        """Free what sessions have parked that nobody holds any more; whether there was any.

        Not when they go: that may happen anywhere, also in the middle of a step.
        """
        found = False
        while (forgotten := self._parking.take_forgotten()) is not None:
            found = True
            self.release(forgotten)
        return found

    # ------------------------------------------------------------- figures

    def bytes_of(self, sequence: Sequence) -> int:
        """Bytes of the pages ``sequence`` holds, shared or not."""
        return self.pool.bytes_of(sequence.ledger.num_pages)

    def bytes_of_pages(self, pages: SequenceOf[int]) -> int:
        """Bytes of so many pages of each layer."""
        return self.pool.bytes_of(pages)

    @property
    def pinned_bytes(self) -> int:
        """Bytes of the parked pages that nobody else may have."""
        pinned = [s.sequence for s in self.parked if s.pinned and s.sequence is not None]
        return sum(map(self.bytes_of, pinned))

    def parked_bytes(self, prefixes: bool) -> int:
        """Bytes of the pages of parked prefixes, or of parked chats."""
        kept = [s.sequence for s in self.parked if s.is_prefix == prefixes]
        return sum(self.bytes_of(sequence) for sequence in kept if sequence is not None)

    def bytes_for(self, num_tokens: int) -> int:
        """Bytes of the pages ``num_tokens`` take where nothing is evicted."""
        return pages_for(num_tokens) * sum(self.pool.page_bytes)

    @property
    def used_bytes(self) -> int:
        """Bytes of all taken pages."""
        self._release_forgotten()
        return self.pool.used_bytes

    @property
    def max_bytes(self) -> int:
        """Bytes of all pages that may be taken at a time; memory backs only those in use."""
        return self.pool.max_bytes

    @property
    def max_tokens(self) -> int:
        """Tokens of whole sequences, nothing evicted, that the pool holds."""
        return self.max_bytes // sum(self.pool.page_bytes) * PAGE_SIZE

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Prove that every page is free, or owned by ``running`` or parked sequences as counted.

        Raises:
            RuntimeError: it is not so.
        """
        parked = [sequence.page_tables for sequence in self._parking.sequences]
        self.pool.check_integrity([*(s.page_tables for s in running), *parked])

    def _make_room(self, lacking: Callable[[], Counts]) -> bool:
        """Drop parked caches until the pages ``lacking``, by layer, can be had; False if never.

        It is asked again each time: what is dropped may have been what pages were shared with.
        """
        while not self.pool.can_allocate(lacking()):
            if self._release_forgotten():
                continue
            oldest = next((s for s in self.parked if not s.pinned), None)
            if oldest is None:
                return False
            self.drop(oldest)
        return True

    def _allocate(self, number: int, count: int) -> list[int]:
        pages = self.pool.allocate(number, count)
        self._warm[number].difference_update(pages)
        return pages

    def _give_back(self, number: int, pages: list[int]) -> None:
        """Give back the memory of free ``pages``, and of those that were thought to be taken."""
        warm, self._warm[number] = self._warm[number], set()
        if pages or warm:
            self.memories[number].give_back([*pages, *warm])

    def _copy_page(self, sequence: Sequence, number: int, place: int) -> None:
        """Put a copy of its own in place of a shared page of ``sequence``."""
        layer = sequence.layers[number]
        shared = layer.pages[place]
        (copy,) = self._allocate(number, 1)
        try:
            self.memories[number].copy_page(shared, copy)
            layer.pages = [*layer.pages[:place], copy, *layer.pages[place + 1 :]]
        except BaseException:
            self.free(number, [copy])
            raise
        self.free(number, [shared])

    def _add_pages(self, sequence: Sequence, number: int, count: int) -> None:
        pages = self._allocate(number, count)
        try:
            self._give_back(number, [])
            sequence.layers[number].add_pages(pages)
        except BaseException:
            self.free(number, pages)
            raise

    def _share_pages(self, target: Sequence, number: int, pages: list[int]) -> None:
        """Put ``pages``, which others own, on an empty table of ``target``."""
        self.pool.share(number, pages)
        try:
            target.layers[number].pages = pages
        except BaseException:
            self.free(number, pages)
            raise

    def _shared_open_pages(self, sequence: Sequence) -> Iterator[tuple[int, int]]:
        """(layer, place in its table) of shared pages into which the next tokens go."""
        if sequence.ledger.is_alone(self.pool.num_shares):
            return
        for number, layer in enumerate(sequence.layers):
            pages = layer.pages
            for place in range(layer.length // PAGE_SIZE, len(pages)):
                if self.pool.is_shared(number, pages[place]):
                    yield number, place
