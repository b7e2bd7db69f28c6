"""Pages belong to one owner or to nobody, whatever happens."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ov_kvcrush.runtime.pages.pool import PagePool

NUM_LAYERS, NUM_PAGES = 3, 12
PAGE_BYTES = (100, 50, 75)
# Two thirds of what all pages together take.
MAX_BYTES = NUM_PAGES * sum(PAGE_BYTES) * 2 // 3


class PoolMachine(RuleBasedStateMachine):
    """Random allocations and releases; the pool's account must always balance.

    Whatever is free is listed here, and the lowest of it has to be what is taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool([NUM_PAGES] * NUM_LAYERS, PAGE_BYTES, MAX_BYTES)
        self.owners: list[list[list[int]]] = []

    def lowest_free(self, layer: int, count: int) -> list[int]:
        taken = {page for table in self.owners for page in table[layer]}
        return [page for page in range(NUM_PAGES) if page not in taken][:count]

    @rule(wanted=st.lists(st.integers(0, 5), min_size=NUM_LAYERS, max_size=NUM_LAYERS))
    def allocate(self, wanted: list[int]) -> None:
        free = all(self.num_used(n) + count <= NUM_PAGES for n, count in enumerate(wanted))
        size = sum(count * page for count, page in zip(wanted, PAGE_BYTES, strict=True))
        fits = free and self.used_bytes() + size <= MAX_BYTES
        assert self.pool.can_allocate(wanted) == fits
        assert self.pool.could_hold(wanted) == (size <= MAX_BYTES)
        assert self.pool.bytes_of(wanted) == size
        if fits:
            lowest = [self.lowest_free(n, count) for n, count in enumerate(wanted)]
            taken = [self.pool.allocate(n, count) for n, count in enumerate(wanted)]
            assert taken == lowest
            self.owners.append(taken)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.owners.pop(data.draw(st.integers(0, len(self.owners) - 1)))
        for layer, pages in enumerate(table):
            freed = self.pool.release(layer, pages)
            assert set(freed) <= set(pages)
            assert not set(freed) & {page for other in self.owners for page in other[layer]}

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.owners))
        part = [pages[: data.draw(st.integers(0, len(pages)))] for pages in table]
        for layer, pages in enumerate(part):
            self.pool.share(layer, pages)
        self.owners.append(part)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def own_alone(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.owners))
        for layer, pages in enumerate(table):
            for n, page in enumerate(pages):
                if self.pool.is_shared(layer, page) and self.pool.num_free(layer):
                    lowest = self.lowest_free(layer, 1)
                    (pages[n],) = self.pool.allocate(layer, 1)
                    assert pages[n] == lowest[0]
                    assert not self.pool.is_shared(layer, pages[n])
                    assert self.pool.release(layer, [page]) == []

    @invariant()
    def every_page_has_one_place(self) -> None:
        self.pool.check_integrity(self.owners)
        assert self.pool.used_bytes == self.used_bytes() <= MAX_BYTES
        for layer in range(NUM_LAYERS):
            used = self.num_used(layer)
            affordable = (MAX_BYTES - self.used_bytes()) // PAGE_BYTES[layer]
            assert self.pool.num_used(layer) == used
            assert self.pool.num_free(layer) == min(NUM_PAGES - used, affordable)

    @invariant()
    def what_is_shared_was_counted(self) -> None:
        counts = [Counter(p for table in self.owners for p in table[n]) for n in range(NUM_LAYERS)]
        for layer, pages in enumerate(counts):
            for page, count in pages.items():
                assert self.pool.is_shared(layer, page) == (count > 1)

    def num_used(self, layer: int) -> int:
        return len({page for table in self.owners for page in table[layer]})

    def used_bytes(self) -> int:
        return sum(self.num_used(layer) * PAGE_BYTES[layer] for layer in range(NUM_LAYERS))


TestPagePool = PoolMachine.TestCase


def test_allocating_more_than_is_free_raises() -> None:
    pool = PagePool([2], [10])
    with pytest.raises(RuntimeError, match="3 pages wanted, 2 free"):
        pool.allocate(0, 3)


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        ([], r"0: \(1, 0\)"),
        ([[[0]], [[0]]], r"0: \(1, 2\)"),
        ([[[0, 1]]], r"1: \(0, 1\)"),
        ([[[0, 7]]], r"unknown \[7\]"),
    ],
)
def test_check_integrity_finds_every_kind_of_fault(
    tables: list[list[list[int]]], fault: str
) -> None:
    pool = PagePool([3], [10])
    assert pool.allocate(0, 1) == [0]
    with pytest.raises(RuntimeError, match=fault):
        pool.check_integrity(tables)


def test_an_address_space_of_any_size_is_at_hand_at_once() -> None:
    pool = PagePool([10**12] * 100, [1] * 100)
    assert pool.allocate(0, 2) == [0, 1]
    assert pool.release(0, [0]) == [0]
    assert pool.allocate(0, 2) == [0, 2]
    assert pool.num_free(0) == 10**12 - 3
