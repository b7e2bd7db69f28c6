"""A prompt's cuts: never more between two of them than the pool was told."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.runtime.eviction.cut_plan import plan_cuts, stretch_between_cuts
from ov_kvcrush.runtime.sequences.sequence import Cut


def test_a_prompt_is_cut_after_each_stretch_and_at_its_end() -> None:
    cuts = plan_cuts(0, 2500, max_cache_size=256, prefill_budget=512, stretch=1024)
    assert cuts == [
        Cut(1024, 512, reads_on=True),
        Cut(2048, 512, reads_on=True),
        Cut(2500, 256),
    ]


def test_without_a_prefill_budget_it_is_cut_once() -> None:
    cuts = plan_cuts(0, 9000, max_cache_size=256, prefill_budget=0, stretch=1024)
    assert cuts == [Cut(9000, 256)]


def test_what_is_read_twice_stops_at_every_stretch() -> None:
    plan = partial(plan_cuts, 0, 2500, max_cache_size=256, stretch=1024, thorough=True)
    assert plan(prefill_budget=512) == [
        Cut(1024, 512, reads_on=True, thorough=True),
        Cut(2048, 512, reads_on=True, thorough=True),
        Cut(2500, 256, thorough=True),
    ]
    # Where nothing is cut on the way there is nothing to cut there either.
    assert plan(prefill_budget=0) == [
        Cut(1024, 1024, reads_on=True, thorough=True),
        Cut(2048, 2048, reads_on=True, thorough=True),
        Cut(2500, 256, thorough=True),
    ]


def test_a_prompt_of_whole_stretches_is_not_cut_twice_at_its_end() -> None:
    cuts = plan_cuts(100, 300, max_cache_size=64, prefill_budget=64, stretch=100)
    assert [cut.num_cached for cut in cuts] == [200, 300]


def test_a_stretch_is_as_long_as_the_budget_but_not_tiny_and_no_longer_than_a_chunk() -> None:
    assert stretch_between_cuts(1024, chunk=2048) == 1024
    assert stretch_between_cuts(1023, chunk=2048) == 1024
    assert stretch_between_cuts(896, chunk=2048) == 896
    assert stretch_between_cuts(100, chunk=2048) == 512
    assert stretch_between_cuts(8192, chunk=2048) == 2048
    assert stretch_between_cuts(100, chunk=64) == 64


def test_the_first_stretch_may_be_longer_and_never_is_shorter() -> None:
    plan = partial(plan_cuts, 100, 3000, max_cache_size=256, prefill_budget=512, stretch=1024)
    assert [cut.num_cached for cut in plan(first=1436)] == [1536, 2560, 3000]
    assert plan(first=900) == plan()


@given(
    num_cached=st.integers(0, 500),
    new=st.integers(1, 3000),
    budget=st.integers(1, 300),
    more=st.integers(0, 300),
    stretch=st.integers(1, 700),
)
def test_the_cache_never_holds_more_than_prefill_budget_and_stretch(
    num_cached: int, new: int, budget: int, more: int, stretch: int
) -> None:
    prefill = budget + more
    held, at = min(num_cached, budget), num_cached
    cuts = plan_cuts(
        num_cached,
        num_cached + new,
        max_cache_size=budget,
        prefill_budget=prefill,
        stretch=stretch,
        first=prefill + stretch - held,
    )
    for cut in cuts:
        assert cut.num_cached > at
        held += cut.num_cached - at
        at = cut.num_cached
        assert held <= prefill + stretch
        held = min(held, cut.budget)
    assert (at, held <= budget) == (num_cached + new, True)
