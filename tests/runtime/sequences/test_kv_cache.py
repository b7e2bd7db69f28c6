"""Sequences that share pages: each sees its own tokens, and every page has its owners, always."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.pages.pool import PagePool
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.failures import InjectedError, counted
from tests.support.small_cache import Slots, slots_of, small_cache

LAYERS = (LayerGeometry(1, 1, 4, 4),) * 3
NUM_PAGES = 10


class CacheMachine(RuleBasedStateMachine):
    """Sequences grow, fork, are cut, parked and released, and some of it fails half-way."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = small_cache(NUM_PAGES, [100, 50, 75])
        self.memories = slots_of(self.cache)
        self.sequences: list[Sequence] = []
        self.sessions: list[Session] = []
        self.next_token = 0

    @rule()
    def begin(self) -> None:
        self.sequences.append(Sequence([], LAYERS, None))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), count=st.integers(1, 2 * PAGE_SIZE))
    def grow(self, data: st.DataObject, count: int) -> None:
        sequence = self.one(data)
        if not self.cache.extend(sequence, count):
            return
        new = list(range(self.next_token, self.next_token + count))
        self.next_token += count
        for slots, layer in zip(self.memories, sequence.layers, strict=True):
            for place, token in enumerate(new, start=layer.length):
                slots.pages[layer.pages[place // PAGE_SIZE], place % PAGE_SIZE] = token
        sequence.tokens[sequence.num_cached :] = new  # what was given up is not read again here
        sequence.append(count)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), fails_at=st.integers(0, len(LAYERS)))
    def fork(self, data: st.DataObject, fails_at: int) -> None:
        source = self.one(data)
        target = source.twin(list(source.tokens))
        with counted((PagePool, "share"), fails_at), suppress(InjectedError):
            self.cache.fork(source, target)
        assert (target.num_cached == 0) == (fails_at > 0 or source.num_cached == 0)
        self.sequences.append(target)

    @precondition(lambda self: self.sequences)
    @rule(
        data=st.data(),
        fails_at=st.integers(0, len(LAYERS)),
        drawn=st.integers(0, 2**32 - 1),
        reads_on=st.booleans(),
    )
    def cut(self, data: st.DataObject, fails_at: int, drawn: int, reads_on: bool) -> None:
        """Keep half of each layer's tokens, others in each, and move them to the front."""
        sequence, random = self.one(data), np.random.default_rng(drawn)
        chosen = [
            np.sort(random.permutation(layer.length)[: -(-layer.length // 2)])
            for layer in sequence.layers
        ]
        changed = {
            n: sorted({int(to) // PAGE_SIZE for to in np.flatnonzero(kept != np.arange(len(kept)))})
            for n, kept in enumerate(chosen)
        }
        try:
            with self.cache.rewriting(sequence, changed) as tables:
                if tables is None:
                    return
                for n, kept in enumerate(chosen, start=1):
                    if n == fails_at:
                        raise InjectedError
                    self.move(sequence, n - 1, kept, tables[n - 1])
                sequence.rewind_floor = sequence.num_cached
        except InjectedError:
            self.cache.release(sequence)
        else:
            self.cache.trim(sequence, reads_on=reads_on)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), count=st.integers(0, 2 * PAGE_SIZE), trims=st.booleans())
    def rewind(self, data: st.DataObject, count: int, trims: bool) -> None:
        """Take tokens back; the pages behind them may stay on the table, shared or not."""
        sequence = self.one(data)
        sequence.rewind_to(max(sequence.rewind_floor, sequence.num_cached - count))
        if trims:
            self.cache.trim(sequence)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        sequence = self.one(data)
        self.cache.release(sequence)
        self.sequences.remove(sequence)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), pinned=st.booleans())
    def park(self, data: st.DataObject, pinned: bool) -> None:
        sequence, session = self.one(data), Session(pinned=pinned)
        self.cache.park(session, sequence)
        self.sequences.remove(sequence)
        self.sessions.append(session)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), comes_back=st.booleans())
    def unpark(self, data: st.DataObject, comes_back: bool) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        self.sessions.remove(session)
        if not comes_back:
            self.cache.drop(session)
        elif (sequence := self.cache.unpark(session)) is not None:
            self.sequences.append(sequence)

    @invariant()
    def every_page_has_its_owners(self) -> None:
        self.cache.check_integrity(self.sequences)

    @invariant()
    def what_is_counted_is_so(self) -> None:
        pool = self.cache.pool
        for sequence in self.sequences:
            tables = sequence.page_tables
            assert sequence.ledger.num_pages.tolist() == [len(pages) for pages in tables]
            assert sequence.lengths == [layer.length for layer in sequence.layers]
            assert [layer.table.tolist() for layer in sequence.layers] == tables
            assert self.cache.bytes_of(sequence) == sum(
                len(pages) * size for pages, size in zip(tables, pool.page_bytes, strict=True)
            )

    @invariant()
    def where_there_is_room_nothing_is_lacking_or_shared(self) -> None:
        pool = self.cache.pool
        for sequence in self.sequences:
            room = sequence.ledger.room(pool.num_shares)
            if room <= 0:
                continue
            for number, layer in enumerate(sequence.layers):
                assert layer.length + room <= len(layer.pages) * PAGE_SIZE
                behind = layer.pages[layer.length // PAGE_SIZE :]
                assert not any(pool.is_shared(number, page) for page in behind)

    @invariant()
    def everybody_sees_its_own_tokens(self) -> None:
        parked = [session.sequence for session in self.sessions if session.sequence is not None]
        for sequence in [*self.sequences, *parked]:
            for slots, layer in zip(self.memories, sequence.layers, strict=True):
                held = slots.pages[layer.pages].ravel()[: layer.length]
                wanted = np.array(sequence.tokens, np.int64)[layer.positions[0]]
                assert (held[layer.slots[0]] == wanted).all()

    def one(self, data: st.DataObject) -> Sequence:
        return data.draw(st.sampled_from(self.sequences))

    def move(
        self, sequence: Sequence, number: int, kept: NDArray[np.int64], table: list[int]
    ) -> None:
        slots, layer = self.memories[number], sequence.layers[number]
        held = slots.pages[table].ravel()[layer.slots[0][kept]]
        for to, token in enumerate(held):
            slots.pages[layer.pages[to // PAGE_SIZE], to % PAGE_SIZE] = token
        places = np.arange(len(kept), dtype=np.int32)[None]
        layer.keep(kept.astype(np.int32)[None], places)


TestKVCache = CacheMachine.TestCase


def test_what_cannot_be_had_changes_nothing() -> None:
    cache = small_cache(2, [10])
    sequence, other = (Sequence([], LAYERS[:1], None) for _ in range(2))
    assert cache.extend(sequence, PAGE_SIZE + 1)
    sequence.append(PAGE_SIZE + 1)
    cache.fork(sequence, other)
    with cache.rewriting(other, {0: [0, 1]}) as tables:
        assert tables is None
    assert other.page_tables == sequence.page_tables
    cache.check_integrity([sequence, other])


def test_pages_that_were_rewritten_come_back_whatever_happens() -> None:
    cache = small_cache(4, [10])
    sequence, other = (Sequence([], LAYERS[:1], None) for _ in range(2))
    assert cache.extend(sequence, 2 * PAGE_SIZE)
    sequence.append(2 * PAGE_SIZE)
    cache.fork(sequence, other)
    with pytest.raises(InjectedError), cache.rewriting(other, {0: [0, 1]}):
        raise InjectedError
    cache.check_integrity([sequence, other])
    cache.release(other)
    cache.release(sequence)
    assert cache.used_bytes == 0


def test_room_is_known_until_a_page_is_full_or_shared() -> None:
    cache = small_cache(8, [10])
    sequence, other = (Sequence([], LAYERS[:1], None) for _ in range(2))

    def room() -> int:
        return sequence.ledger.room(cache.pool.num_shares)

    assert room() == -1
    assert cache.extend(sequence, 5)
    assert room() == PAGE_SIZE
    sequence.append(5)
    assert room() == PAGE_SIZE - 5
    cache.fork(sequence, other)
    assert room() == -1
    assert cache.extend(sequence, 1)
    assert sequence.page_tables != other.page_tables
    assert room() == PAGE_SIZE - 5
    cache.check_integrity([sequence, other])


def test_what_is_held_already_gets_its_pages_without_a_new_token() -> None:
    cache = small_cache(8, [10])
    sequence, other = (Sequence([], LAYERS[:1], None) for _ in range(2))
    assert cache.extend(sequence, 40)
    sequence.append(40)
    sequence.clone_into(other)
    assert cache.extend(other, 0)
    assert other.ledger.num_pages.tolist() == [2]


def test_tokens_taken_back_into_a_shared_page_are_not_written_over() -> None:
    cache = small_cache(8, [10])
    sequence, other = (Sequence([], LAYERS[:1], None) for _ in range(2))
    sequence.tokens = list(range(40))
    assert cache.extend(sequence, 40)
    sequence.append(40)
    cache.fork(sequence, other)
    assert cache.extend(sequence, 1)  # the open page is its own now, the first one is not
    assert sequence.ledger.room(cache.pool.num_shares) == 2 * PAGE_SIZE - 40
    sequence.rewind_to(20)
    assert sequence.ledger.room(cache.pool.num_shares) == -1
    assert cache.extend(sequence, 1)
    assert sequence.page_tables[0][0] != other.page_tables[0][0]
    cache.check_integrity([sequence, other])


def cut_while_it_reads() -> tuple[KVCache, Sequence, Slots]:
    """A sequence that reads on: of its four pages, whose memory holds sevens, one is left."""
    cache = small_cache(NUM_PAGES, [100])
    sequence = Sequence([], LAYERS[:1], None)
    assert cache.extend(sequence, 4 * PAGE_SIZE)
    (slots,) = slots_of(cache)
    slots.pages[:4] = 7
    sequence.tokens += range(PAGE_SIZE)
    sequence.append(PAGE_SIZE)
    cache.trim(sequence, reads_on=True)
    return cache, sequence, slots


def test_a_prompt_that_reads_on_finds_the_memory_its_cut_has_left() -> None:
    cache, sequence, slots = cut_while_it_reads()
    assert (slots.pages[:4] == 7).all(), "nothing is given back yet"
    # What it does not take after all is given back then, and what it takes is not.
    assert cache.extend(sequence, 2 * PAGE_SIZE)
    assert sequence.layers[0].pages == [0, 1, 2]
    assert (slots.pages[:3] == 7).all()
    assert (slots.pages[3] == -1).all()
    cache.check_integrity([sequence])


def test_memory_left_for_a_prompt_goes_back_with_it() -> None:
    cache, sequence, slots = cut_while_it_reads()
    cache.release(sequence)
    assert (slots.pages == -1).all()
