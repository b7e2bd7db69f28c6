"""Who shares a cache changes nothing but budgets: with even ones, divided heads do what layers do.

An engine whose heads lie together is the reference, to the last bit in f32. With budgets that
differ by head, pages and means are what can be checked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.engines import (
    EVICTING,
    EXACT,
    F32,
    assert_nothing_held,
    engine_of,
    finish,
    greedy,
    prompt_of,
    sequence_of,
)
from tests.support.head_groups import GROUPINGS, divided, held_by_head
from tests.support.session_process import ask

Scenario = Callable[[PagedEngine], list[Any]]
EVEN: dict[str, Any] = {**EVICTING, "layer_budgets": "uniform"}
READING: dict[str, Any] = {**EVEN, "prefill_budget": 128}
PAGES: dict[str, Any] = {
    **EVEN, "max_cache_size": 128, "start_size": 32, "recent_size": 32, "granularity": "page",
}  # fmt: skip
PROMPTS = [prompt_of(length, seed) for seed, length in enumerate((150, 40, 220, 90, 33))]


def held(engine: PagedEngine, session: Session) -> Any:
    assert session.sequence is not None
    sequence = session.sequence
    return sequence.cuts, sequence.rewind_floor, held_by_head(engine, sequence)


def figures(*requests: Request) -> list[Any]:
    """What requests say they have cost in tokens and bytes."""
    return [
        (m.kv_tokens, m.kv_bytes, m.kv_bytes_peak, m.num_evicted_tokens, m.num_reused_tokens)
        for request in requests
        for m in (generation.metrics for generation in request.generations)
    ]


def a_chat(engine: PagedEngine) -> list[Any]:
    session = Session()
    answers = [ask(engine, session, prompt_of(length, length)) for length in (300, 30, 200)]
    return [answers, held(engine, session)]


def many_at_once(engine: PagedEngine) -> list[Any]:
    requests = [engine.add_request(prompt, greedy(40)) for prompt in PROMPTS]
    return [finish(engine, *requests), figures(*requests)]


def preempted(engine: PagedEngine) -> list[Any]:
    sessions = [Session() for _ in PROMPTS]
    requests = [
        engine.add_request(prompt, greedy(60), session)
        for prompt, session in zip(PROMPTS, sessions, strict=True)
    ]
    for number in (2, 0, 2):
        for _ in range(15):
            engine.step()
        engine.preempt(sequence_of(requests[number]))
        engine.check_integrity()
    answers = finish(engine, *requests)
    return [answers, [held(engine, session) for session in sessions]]


def begun_alike(engine: PagedEngine) -> list[Any]:
    prefix = Session(pinned=True, is_prefix=True)
    finish(engine, engine.add_request(prompt_of(300), greedy(1), prefix))
    behind = [[*prompt_of(300), *prompt_of(50, seed)] for seed in (1, 2)]
    requests = [engine.add_request(prompt, greedy(40), prefix=prefix) for prompt in behind]
    requests.append(engine.add_request([*prompt_of(100), *prompt_of(40, 3)], greedy(40)))
    answers = finish(engine, *requests)
    assert requests[0].generations[0].metrics.num_reused_tokens == 300
    return [answers, figures(*requests), held(engine, prefix)]


def return_sequences(engine: PagedEngine) -> list[Any]:
    config = greedy(24, do_sample=True, num_return_sequences=3, rng_seed=7, temperature=2.0)
    request = engine.add_request(prompt_of(220), config)
    return [finish(engine, request), figures(request)]


def taken_back(engine: PagedEngine) -> list[Any]:
    session = Session()
    ask(engine, session, prompt_of(200), count=10)
    edited = [*session.token_ids[:-5], *prompt_of(60, 9)]
    request = engine.add_request(edited, greedy(30), session)
    return [finish(engine, request), figures(request), held(engine, session)]


def read_twice(engine: PagedEngine) -> list[Any]:
    document = Session(pinned=True, is_prefix=True, thorough=True)
    finish(engine, engine.add_request(prompt_of(500), greedy(1), document))
    chat = Session()
    prompt = [*prompt_of(500), *prompt_of(30, 1)]
    answers = finish(engine, engine.add_request(prompt, greedy(60), chat, document))
    return [answers, held(engine, document), held(engine, chat)]


CASES: dict[str, tuple[Scenario, dict[str, Any]]] = {
    "everything kept": (a_chat, {}),
    "a chat": (a_chat, EVEN),
    "cut while reading": (a_chat, READING),
    "whole pages": (a_chat, PAGES),
    "keydiff": (a_chat, {**READING, "importance": "keydiff"}),
    "all attention summed": (a_chat, {**READING, "importance": "h2o"}),
    "adaptive": (a_chat, {**READING, "layer_budgets": "adaptive"}),
    "pyramid": (a_chat, {**READING, "layer_budgets": "pyramid"}),
    "query heads": (a_chat, {**READING, "representatives": "distinct", "signature_heads": "query"}),
    "many at once": (many_at_once, EVEN),
    "a pool for two": (many_at_once, {**EVEN, "pool_size": 12 * 32}),
    "preempted": (preempted, EVEN),
    "preempted, all attention summed": (preempted, {**READING, "importance": "h2o"}),
    "begun alike": (begun_alike, READING),
    "begun alike, everything kept": (begun_alike, {}),
    "return sequences": (return_sequences, EVEN),
    "taken back": (taken_back, EVEN),
    "read twice": (read_twice, READING),
}


@pytest.fixture(scope="module")
def make(four_layers_dir: Path) -> Any:
    """Engines of a model with a gate."""
    settings: dict[str, Any] = {"max_num_batched_tokens": 128, "pool_size": 4096, **EXACT}
    return partial(engine_of, four_layers_dir, properties=F32, **settings)


@pytest.mark.parametrize("case", CASES)
def test_divided_heads_do_what_layers_do(make: Any, case: str) -> None:
    scenario, settings = CASES[case]
    settings = {"pool_size": 4096, **settings}
    whole = make(**settings)
    assert len(whole.model.layers) == whole.model.num_model_layers
    wanted, told = scenario(whole), whole.describe()
    for grouping in GROUPINGS.values():
        with divided(grouping):
            engine = make(**settings)
        assert len(engine.model.layers) > engine.model.num_model_layers
        assert scenario(engine) == wanted
        assert engine.describe() == told
        assert_nothing_held(engine)


# ------------------------------------------------------------- budgets that differ by head


@pytest.fixture(scope="module", params=["planned", *GROUPINGS])
def uneven(request: pytest.FixtureRequest, needle_int8_dir: Path) -> PagedEngine:
    """An engine whose heads of a layer hold different numbers of tokens."""
    settings = {**EVICTING, "prefill_budget": 128, "pool_size": 4096}
    if request.param == "planned":
        return engine_of(needle_int8_dir, **settings)
    with divided(GROUPINGS[request.param]):
        return engine_of(needle_int8_dir, **settings)


def test_a_chat_of_three_hundred_turns_stays_within_its_budget(uneven: PagedEngine) -> None:
    session, most = Session(), EVICTING["max_cache_size"] + EVICTING["decode_slack"]
    draw = np.random.default_rng(0)
    held_bytes, num_cached = [], 0
    for turn in range(300):
        history = [*session.token_ids, *prompt_of(int(draw.integers(1, 60)), turn)]
        request = uneven.add_request(history, greedy(2), session)
        while not request.finished:
            uneven.step()
        uneven.check_integrity()
        metrics = request.generations[0].metrics
        assert not metrics.restarted
        assert metrics.num_reused_tokens == num_cached
        assert session.sequence is not None
        assert session.sequence.mean_length <= most
        num_cached = session.sequence.num_cached
        held_bytes.append(uneven.cache.bytes_of(session.sequence))
    assert session.sequence is not None
    lengths = session.sequence.lengths
    assert len(set(lengths)) > 2
    assert max(held_bytes[100:]) <= 1.2 * max(held_bytes[10:100])
    uneven.close_session(session)
    assert_nothing_held(uneven)
