"""Prompts that begin alike share pages, cut or not; nobody sees what another one evicts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ov_kvcrush.errors import PromptError
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.sequences.shared_beginning import common_prefix
from tests.support.engines import EVICTING, EXACT, F32, engine_of, finish, greedy, prompt_of

# A chunk is 128 tokens, and so is a stretch between two cuts.
READING = {**EVICTING, "prefill_budget": 128}
Make = Callable[..., PagedEngine]


@pytest.fixture(scope="module")
def make(needle_f32_dir: Path) -> Make:
    return partial(
        engine_of, needle_f32_dir, properties=F32, max_num_batched_tokens=128, pool_size=4096,
        **EXACT,
    )  # fmt: skip


def ask(
    engine: PagedEngine,
    prompt: list[int],
    session: Session | None = None,
    prefix: Session | None = None,
    count: int = 12,
) -> Request:
    request = engine.add_request(prompt, greedy(count), session, prefix)
    finish(engine, request)
    return request


def told(request: Request) -> tuple[list[int], int]:
    """Answer, and tokens of the prompt that were not read."""
    (generation,) = request.generations
    return generation.tokens, generation.metrics.num_reused_tokens


def read_prefix(engine: PagedEngine, tokens: list[int]) -> Session:
    session = Session(pinned=True, is_prefix=True)
    ask(engine, tokens, session, count=1)
    return session


def contents(engine: PagedEngine, session: Session) -> list[bytes]:
    assert session.sequence is not None
    return [
        memory.keys[layer.pages].tobytes() + memory.values[layer.pages].tobytes()
        for memory, layer in zip(engine.model.memories, session.sequence.layers, strict=True)
    ]


def test_a_second_prompt_reads_only_what_differs(make: Make) -> None:
    engine, alone = make(), make(prefix_caching=False)
    system, first, second = prompt_of(200), prompt_of(40, 1), prompt_of(50, 2)
    ask(engine, system + first)
    before = engine.cache.used_bytes
    request = ask(engine, system + second)
    assert told(request) == (told(ask(alone, system + second))[0], 192)
    # Six full pages a layer are shared, so three more are needed.
    assert engine.cache.used_bytes - before == 3 * engine.model.page_bytes
    assert alone.cache.used_bytes == 0


def test_two_chats_with_one_system_prompt_share_it(make: Make) -> None:
    engine = make()
    system = prompt_of(100)
    chats = [Session(), Session()]
    ask(engine, system + prompt_of(30, 1), chats[0])
    assert told(ask(engine, system + prompt_of(30, 2), chats[1]))[1] == 96
    assert engine.prefixes.num_hits == 1


def test_requests_that_wait_find_what_others_have_read_meanwhile(make: Make) -> None:
    engine = make()
    document = prompt_of(100)
    # A step reads 128 tokens: the first alone fits into it.
    requests = [engine.add_request(document + prompt_of(28, n), greedy(3)) for n in range(1, 4)]
    finish(engine, *requests)
    assert not engine.has_unfinished()
    assert [told(request)[1] for request in requests] == [0, 96, 96]


def test_what_a_cut_left_of_a_document_serves_the_next_question(make: Make) -> None:
    engine, alone = make(**READING), make(**READING, prefix_caching=False)
    # Stretches are 128 tokens: cut at 128, 256, 384, and at the end.
    document = prompt_of(400)
    ask(engine, document + prompt_of(20, 1))
    request = ask(engine, document + prompt_of(30, 2))
    assert told(request) == (told(ask(alone, document + prompt_of(30, 2)))[0], 384)


def test_a_document_that_many_ask_about_at_once_is_read_once(make: Make) -> None:
    engine, alone = make(**READING), make(**READING, prefix_caching=False)
    document = prompt_of(400)
    prompts = [document + prompt_of(30, n) for n in range(1, 7)]
    requests = [engine.add_request(prompt, greedy(12)) for prompt in prompts]
    while engine.has_unfinished():
        engine.step()
        engine.check_integrity()
    assert [told(request)[1] for request in requests] == [0, *[384] * 5]
    assert [told(r)[0] for r in requests] == [told(ask(alone, prompt))[0] for prompt in prompts]


def test_a_document_that_others_wait_for_stays_in_a_small_pool(make: Make) -> None:
    # 128 tokens and a stretch while they read, 112 later: the pool is for three or four of them,
    # or the document and two.
    engine = make(**READING, pool_size=16 * 32)
    prompts = [prompt_of(400) + prompt_of(30, n) for n in range(8)]
    requests = [engine.add_request(prompt, greedy(40)) for prompt in prompts]
    most_together = 0
    while engine.has_unfinished():
        engine.step()
        engine.check_integrity()
        most_together = max(most_together, len(engine.scheduler.running))
    assert [told(request)[1] for request in requests] == [0, *[384] * 7]
    assert most_together >= 2
    assert engine.prefixes.num_hits == 7
    assert not any(r.generations[0].metrics.num_preemptions for r in requests)


def test_a_document_that_is_never_cut_is_read_once_too(make: Make) -> None:
    engine = make()
    document = prompt_of(300)
    requests = [engine.add_request(document + prompt_of(30, n), greedy(3)) for n in range(4)]
    finish(engine, *requests)
    # In steps of 128 tokens; nobody waits for the first one's question to be read.
    assert [told(request)[1] for request in requests] == [0, 288, 288, 288]


def test_who_is_waited_for_may_leave(make: Make) -> None:
    engine = make(**READING)
    prompts = [prompt_of(400) + prompt_of(30, n) for n in range(3)]
    first, *others = [engine.add_request(prompt, greedy(5)) for prompt in prompts]
    engine.step()
    engine.cancel(first)
    finish(engine, *others)
    # What the first one left behind its first cut is found; the second reads on for the third.
    assert [told(request)[1] for request in others] == [128, 384]
    assert not engine.has_unfinished()


def test_owners_do_not_wait_for_one_another(make: Make) -> None:
    engine = make(**READING)
    prompt = prompt_of(60)
    requests = [engine.add_request(prompt, greedy(3), owner=name) for name in "ab"]
    engine.step()
    assert [len(told(request)[0]) for request in requests] == [1, 1]
    finish(engine, *requests)
    assert [told(request)[1] for request in requests] == [0, 0]


@pytest.mark.parametrize("length", [385, 430, 470, 490])
def test_a_document_s_end_behind_the_last_cut_is_shared_up_to_a_page(
    make: Make, length: int
) -> None:
    # Whole pages stay of every layer; else they end in different places of a page.
    settings = {**READING, "layer_budgets": "uniform"}
    engine, alone = make(**settings), make(**settings, prefix_caching=False)
    document = prompt_of(length)
    ask(engine, document + prompt_of(20, 1))
    question = document + prompt_of(25, 2)
    request = ask(engine, question)
    assert told(request) == (told(ask(alone, question))[0], length // 32 * 32)


def test_what_is_shared_before_the_first_cut_keeps_clear_of_its_window(make: Make) -> None:
    engine, alone = make(**READING), make(**READING, prefix_caching=False)
    start = prompt_of(125)
    ask(engine, start + prompt_of(200, 1))
    request = ask(engine, start + prompt_of(200, 2))
    # The cut at 128 looks through the queries of 112 … 127; a page ends at 96.
    assert told(request) == (told(ask(alone, start + prompt_of(200, 2)))[0], 96)


@pytest.mark.parametrize("budget", [{}, READING])
def test_a_cached_prefix_serves_any_number_of_questions(make: Make, budget: dict[str, Any]) -> None:
    engine = make(**budget, prefix_caching=False)
    document = prompt_of(500)
    prefix = read_prefix(engine, document)
    before = contents(engine, prefix)
    questions = [prompt_of(20, 1), prompt_of(150, 2), prompt_of(9, 3)]
    answers = [told(ask(engine, document + q, prefix=prefix, count=60)) for q in questions]
    assert [reused for _, reused in answers] == [500] * 3
    assert contents(engine, prefix) == before
    # Whatever was asked in between, and cut, the prefix is as it was.
    again = [told(ask(engine, document + q, prefix=prefix, count=60)) for q in questions]
    assert again == answers
    if not budget:
        alone = make(prefix_caching=False)
        assert [a for a, _ in answers] == [
            told(ask(alone, document + q, count=60))[0] for q in questions
        ]
    engine.close_session(prefix)
    assert engine.cache.used_bytes == 0


def test_a_chat_begins_with_a_prefix_and_goes_on_alone(make: Make) -> None:
    engine = make(**READING)
    document, chat = prompt_of(500), Session()
    prefix = read_prefix(engine, document)
    first = ask(engine, document + prompt_of(20, 1), chat, prefix)
    history = [*document, *prompt_of(20, 1), *first.generations[0].tokens]
    reused = told(ask(engine, history + prompt_of(20, 2), chat, prefix))[1]
    assert reused == len(history) - 1
    # Where the chat has lost its cache it begins with the prefix again.
    engine.close_session(chat)
    assert told(ask(engine, history + prompt_of(20, 2), chat, prefix))[1] == 500


def test_a_prompt_without_the_prefix_is_refused(make: Make) -> None:
    engine = make()
    prefix = read_prefix(engine, prompt_of(100))
    for prompt in (prompt_of(120, 1), prompt_of(100), prompt_of(50)):
        with pytest.raises(PromptError, match="does not begin with the cached prefix"):
            engine.add_request(prompt, greedy(1), None, prefix)
    engine.close_session(prefix)
    with pytest.raises(PromptError, match="closed"):
        engine.add_request(prompt_of(120), greedy(1), None, prefix)
    engine.check_integrity()


@pytest.mark.parametrize("budget", [{}, READING])
def test_sharing_and_preempting_change_no_answer(make: Make, budget: dict[str, Any]) -> None:
    draw, documents = np.random.default_rng(8), [prompt_of(n, n) for n in (90, 230, 310)]
    prompts = [documents[n % 3] + prompt_of(int(draw.integers(5, 80)), n) for n in range(9)]
    alone = make(**budget, prefix_caching=False)
    wanted = [told(ask(alone, prompt, count=30))[0] for prompt in prompts]
    # All of them together hold more than the pool does.
    engine = make(**budget, pool_size=1536)
    requests = [engine.add_request(prompt, greedy(30)) for prompt in prompts]
    num_steps = 0
    while engine.has_unfinished():
        engine.step()
        engine.check_integrity()
        num_steps += 1
        running = [g.sequence for r in requests if not r.finished for g in r.generations]
        if num_steps % 9 == 0 and (holding := [s for s in running if s and s.num_cached]):
            engine.preempt(holding[int(draw.integers(len(holding)))])
    assert [told(request)[0] for request in requests] == wanted
    assert engine.prefixes.num_hits >= 3


def test_where_pages_are_short_prefixes_go_and_pinned_ones_stay(make: Make) -> None:
    engine = make(pool_size=16 * 32)
    pinned = read_prefix(engine, prompt_of(128))
    ask(engine, prompt_of(120, 1))
    assert engine.prefixes.num_hits == 0
    # Four pages are pinned and up to four kept: this takes twelve.
    assert len(told(ask(engine, prompt_of(360, 2)))[0]) == 12
    assert pinned.sequence is not None
    assert told(ask(engine, [*prompt_of(128), 9], prefix=pinned))[1] == 128


def test_what_pinned_prefixes_leave_no_room_for_is_refused(make: Make) -> None:
    engine = make(pool_size=16 * 32)
    document = prompt_of(320)
    prefix = read_prefix(engine, document)
    with pytest.raises(PromptError, match="holds 512 tokens, 62% of it cached prefixes"):
        ask(engine, prompt_of(250, 1))
    # What begins with it needs only the rest.
    assert len(told(ask(engine, document + prompt_of(150, 1), prefix=prefix))[0]) == 12
    engine.close_session(prefix)
    assert len(told(ask(engine, prompt_of(250, 1)))[0]) == 12


def test_chats_that_wait_give_way_where_nothing_runs(make: Make) -> None:
    engine = make(pool_size=16 * 32)
    chats = [Session(), Session(), Session()]
    for seed, chat in enumerate(chats):
        ask(engine, prompt_of(120, seed), chat, count=1)
    # Each holds four pages a layer; the first to go on needs another eight, and none runs.
    longer = [prompt_of(120, seed) + prompt_of(250, 9 + seed) for seed in range(3)]
    requests = [
        engine.add_request(prompt, greedy(5), chat)
        for prompt, chat in zip(longer, chats, strict=True)
    ]
    for _ in range(200):
        engine.step()
        engine.check_integrity()
    assert [len(told(request)[0]) for request in requests] == [5, 5, 5]


def test_what_is_kept_unasked_is_limited(make: Make) -> None:
    engine = make(pool_size=64 * 32)
    for seed in range(20):
        ask(engine, prompt_of(100, seed), count=1)
        assert engine.cache.used_bytes <= engine.cache.max_bytes / 2
    assert engine.cache.used_bytes > engine.cache.max_bytes / 4


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == 2
    assert common_prefix([5], [1]) == common_prefix([], [1]) == 0
