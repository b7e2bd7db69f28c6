"""Who runs next and how much of it: a scheduler over pages of numbers, without any inference."""

from __future__ import annotations

import pytest

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets
from ov_kvcrush.runtime.eviction.cut_plan import CutPlanner
from ov_kvcrush.runtime.pages.cache_layer import cache_layers, undivided
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.scheduling.admission import Admission
from ov_kvcrush.runtime.scheduling.scheduler import Schedule, Scheduler
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.prefixes import Prefixes
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.small_cache import small_cache

LAYERS = (LayerGeometry(1, 1, 4, 4),) * 2
CACHE_LAYERS = cache_layers(LAYERS, undivided(LAYERS))


def scheduler_of(
    num_pages: int = 100,
    max_num_batched_tokens: int = 64,
    max_num_seqs: int = 8,
    prefix_caching: bool = False,
    config: KVCacheConfig | None = None,
) -> tuple[Scheduler, KVCache]:
    cache = small_cache(num_pages, [10] * len(LAYERS))
    config = config or KVCacheConfig()
    planner = CutPlanner(config, CacheBudgets(config, CACHE_LAYERS, ()), max_num_batched_tokens)
    admission, prefixes = Admission(cache, planner), Prefixes(cache, 0, prefix_caching)
    scheduler = Scheduler(cache, admission, prefixes, max_num_batched_tokens, max_num_seqs)
    return scheduler, cache


def added(scheduler: Scheduler, *lengths: int) -> list[Sequence]:
    sequences = [Sequence(list(range(length)), LAYERS, None) for length in lengths]
    for sequence in sequences:
        scheduler.add(sequence)
    return sequences


def stepped(scheduler: Scheduler) -> Schedule:
    """A step as an engine makes it: what was chosen is read, and who is read gets a token."""
    step = scheduler.schedule()
    for chunk in step.chunks:
        chunk.sequence.append(chunk.count)
        if chunk.ends:
            chunk.sequence.tokens.append(0)
    return step


def shares(step: Schedule, sequences: list[Sequence]) -> dict[int, int]:
    """Tokens of the step by the number of the sequence."""
    return {sequences.index(chunk.sequence): chunk.count for chunk in step.chunks}


def test_who_decodes_goes_first_and_prompts_fill_the_rest() -> None:
    scheduler, _ = scheduler_of()
    sequences = added(scheduler, 10, 100, 30)
    assert shares(stepped(scheduler), sequences) == {0: 10, 1: 54}
    assert shares(stepped(scheduler), sequences) == {0: 1, 1: 46, 2: 17}
    assert shares(stepped(scheduler), sequences) == {0: 1, 1: 1, 2: 13}
    assert shares(stepped(scheduler), sequences) == {0: 1, 1: 1, 2: 1}


def test_who_begins_like_one_that_is_read_waits_for_it_and_lets_others_pass() -> None:
    scheduler, cache = scheduler_of(max_num_batched_tokens=128, prefix_caching=True)
    document = list(range(64))
    prompts = [[*document, 1], [*document, 2, 2], [*range(9, 29)], [*document, 3]]
    sequences = [Sequence(prompt, LAYERS, None) for prompt in prompts]
    for sequence in sequences:
        scheduler.add(sequence)
    assert shares(stepped(scheduler), sequences) == {0: 65, 2: 20}
    # Both begin behind the two pages that the first one has filled, and share them.
    assert shares(stepped(scheduler), sequences) == {0: 1, 2: 1, 1: 2, 3: 1}
    tables = [[layer.pages[:2] for layer in s.layers] for s in sequences]
    assert tables[0] == tables[1] == tables[3]
    cache.check_integrity(sequences)


def test_nobody_waits_for_what_is_not_going_to_serve() -> None:
    scheduler, _ = scheduler_of(prefix_caching=True)
    sequences = [Sequence([*range(n, 40), *range(200)], LAYERS, None) for n in (0, 0, 1)]
    sequences[1].owner = "somebody else"
    for sequence in sequences:
        scheduler.add(sequence)
    assert shares(stepped(scheduler), sequences) == {0: 64}
    stepped(scheduler)
    # The first one has read what it has in common with a fourth, which need not wait any more.
    late = Sequence([*range(40), 7], LAYERS, None)
    sequences.append(late)
    scheduler.add(late)
    for _ in range(20):
        stepped(scheduler)
    assert late.num_reused == 32
    assert [sequence.num_reused for sequence in sequences[:3]] == [0, 0, 0]


def test_no_more_run_at_once_than_may() -> None:
    scheduler, _ = scheduler_of(max_num_seqs=2)
    sequences = added(scheduler, 5, 5, 5)
    assert shares(stepped(scheduler), sequences) == {0: 5, 1: 5}
    scheduler.remove(sequences[0])
    assert shares(stepped(scheduler), sequences) == {1: 1, 2: 5}


def test_a_chunk_stops_at_the_next_cut_and_says_for_good_whether_it_ends() -> None:
    scheduler, cache = scheduler_of()
    (sequence,) = added(scheduler, 50)
    CutPlanner(
        config := KVCacheConfig(max_cache_size=100, prefill_budget=0),
        CacheBudgets(config, CACHE_LAYERS, ()),
        64,
    ).plan_prompt(sequence, 40)
    (first,) = stepped(scheduler).chunks
    assert (first.first, first.count, first.ends) == (0, 40, False)
    sequence.planned_cuts.clear()
    (second,) = stepped(scheduler).chunks
    assert (second.first, second.count, second.ends) == (40, 10, True)
    # The sequence has grown since: what was decided has not.
    assert second.ends
    assert Chunk.of(sequence, 1).ends
    cache.check_integrity(scheduler.running)


def test_who_waits_is_admitted_when_all_its_pages_are_there() -> None:
    scheduler, cache = scheduler_of(num_pages=3)
    sequences = added(scheduler, PAGE_SIZE, 2 * PAGE_SIZE + 1)
    assert shares(stepped(scheduler), sequences) == {0: PAGE_SIZE}
    assert shares(stepped(scheduler), sequences) == {0: 1}
    cache.release(sequences[0])
    scheduler.remove(sequences[0])
    assert shares(stepped(scheduler), sequences) == {1: 64}


def test_who_was_refused_beside_a_pinned_prefix_is_asked_again_when_it_is_closed() -> None:
    # Each may grow to five pages, the prefix has four.
    config = KVCacheConfig(max_cache_size=128, decode_slack=32)
    scheduler, cache = scheduler_of(num_pages=12, config=config)
    prefix = Session(is_prefix=True, pinned=True)
    (read,) = added(scheduler, 4 * PAGE_SIZE)
    for _ in range(2):
        stepped(scheduler)
    scheduler.remove(read)
    cache.park(prefix, read)
    sequences = added(scheduler, 10, 10)
    # Nothing changes from one step to the next, and it stays refused.
    for tokens in (10, 1, 1):
        assert shares(stepped(scheduler), sequences) == {0: tokens}
    cache.drop(prefix)
    assert shares(stepped(scheduler), sequences) == {0: 1, 1: 10}
    cache.check_integrity(sequences)


def test_the_youngest_gives_way_and_waits_in_front() -> None:
    scheduler, cache = scheduler_of(num_pages=3)
    sequences = added(scheduler, PAGE_SIZE, PAGE_SIZE, PAGE_SIZE)
    assert shares(stepped(scheduler), sequences) == {0: PAGE_SIZE, 1: PAGE_SIZE}
    # Each wants a page more, and there is one: the older gets it, the younger pauses.
    for _ in range(PAGE_SIZE):
        step = stepped(scheduler)
        assert (shares(step, sequences), step.preempted) == ({0: 1}, [])
    step = stepped(scheduler)
    assert (shares(step, sequences), step.preempted) == ({0: 1}, [sequences[1]])
    assert list(scheduler.waiting) == sequences[1:]
    assert sequences[1].num_cached == 0
    cache.check_integrity([*scheduler.running, *scheduler.waiting])


@pytest.mark.parametrize("length", [PAGE_SIZE + 1, 3 * PAGE_SIZE])
def test_who_is_alone_and_finds_no_page_is_exhausted(length: int) -> None:
    scheduler, _ = scheduler_of(num_pages=1)
    (sequence,) = added(scheduler, length)
    step = stepped(scheduler)
    assert (step.chunks, step.exhausted) == ([], sequence)
