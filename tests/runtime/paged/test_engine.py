"""The engine as a whole: batching, waiting, preempting, forking, continuing; no page ever lost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai
import pytest
from openvino_genai import GenerationFinishReason

from ov_kvcrush.errors import ConfigError, PromptError
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

# Equal to the last bit, whoever else is in a batch.
exact_engine = partial(engine_of, properties=F32, **EXACT)
# These tests count pages: every layer has the same.
UNIFORM = {**EVICTING, "layer_budgets": "uniform"}
PROMPTS = [prompt_of(length, seed) for seed, length in enumerate((150, 40, 220, 90, 33))]


@pytest.fixture(scope="module")
def alone(needle_f32_dir: Path) -> list[list[int]]:
    """What five prompts give one after the other, without eviction."""
    engine = exact_engine(needle_f32_dir)
    return [finish(engine, engine.add_request(p, greedy(24)))[0] for p in PROMPTS]


def test_greedy_tokens_equal_openvino_genai(needle_f32_dir: Path, alone: list[list[int]]) -> None:
    peer = openvino_genai.LLMPipeline(
        needle_f32_dir, "CPU", INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32"
    )
    for prompt, tokens in zip(PROMPTS, alone, strict=True):
        result = peer.generate(ov.Tensor(np.array([prompt], np.int64)), greedy(24))
        assert result.tokens[0] == tokens


@pytest.mark.parametrize("limits", [{}, {"max_num_batched_tokens": 50}, {"max_num_seqs": 2}])
def test_batched_sequences_get_what_they_get_alone(
    needle_f32_dir: Path, alone: list[list[int]], limits: dict[str, Any]
) -> None:
    engine = exact_engine(needle_f32_dir, **limits)
    assert finish(engine, *[engine.add_request(p, greedy(24)) for p in PROMPTS]) == alone
    assert_nothing_held(engine)


def test_sequences_wait_and_are_preempted_when_pages_are_short(
    needle_f32_dir: Path, alone: list[list[int]]
) -> None:
    # 11 pages: the longest needs 8, and all together 23.
    engine = exact_engine(needle_f32_dir, pool_size=11 * 32)
    requests = [engine.add_request(p, greedy(24)) for p in PROMPTS]
    assert finish(engine, *requests) == alone
    assert_nothing_held(engine)


def test_a_preempted_sequence_makes_the_same_cuts_again(needle_f32_dir: Path) -> None:
    settings = {**UNIFORM, "decode_slack": 48}
    prompts = [prompt_of(length, seed) for seed, length in enumerate((150, 90, 120, 60))]
    roomy = exact_engine(needle_f32_dir, **settings)
    wanted = [finish(roomy, roomy.add_request(p, greedy(70)))[0] for p in prompts]
    engine = exact_engine(needle_f32_dir, **settings)
    requests = [engine.add_request(p, greedy(70)) for p in prompts]
    for number in (2, 0, 2):
        for _ in range(15):
            engine.step()
        engine.preempt(sequence_of(requests[number]))
        engine.check_integrity()
    assert finish(engine, *requests) == wanted
    assert [r.generations[0].metrics.num_preemptions for r in requests] == [1, 0, 2, 0]


def test_budgets_are_admitted_so_that_none_is_preempted(needle_f32_dir: Path) -> None:
    # A sequence holds up to 5 pages a layer while it is read, later 4: two fit into 10.
    settings = {**UNIFORM, "prefix_caching": False}
    engine = exact_engine(needle_f32_dir, max_num_batched_tokens=64, pool_size=320, **settings)
    requests = [engine.add_request(prompt_of(150, seed), greedy(40)) for seed in range(5)]
    most = 0
    while not all(request.finished for request in requests):
        engine.step()
        engine.check_integrity()
        most = max(most, engine.metrics().num_running)
    assert most == 2
    assert not any(r.generations[0].metrics.num_preemptions for r in requests)


def test_a_sequence_that_fills_the_pool_alone_ends_by_length(
    needle_f32_dir: Path, alone: list[list[int]]
) -> None:
    engine = exact_engine(needle_f32_dir, pool_size=64)
    (tokens,) = finish(engine, request := engine.add_request(PROMPTS[1], greedy(500)))
    assert tokens[:24] == alone[1]
    # 64 slots hold the prompt and 24 tokens; the 25th was computed from them.
    assert len(tokens) == 64 - 40 + 1
    assert request.generations[0].finish_reason == GenerationFinishReason.LENGTH
    assert_nothing_held(engine)


def test_return_sequences_share_the_prompt_and_part_ways(needle_f32_dir: Path) -> None:
    engine = exact_engine(needle_f32_dir, **UNIFORM)
    config = greedy(24, do_sample=True, num_return_sequences=3, rng_seed=7, temperature=2.0)
    first = finish(engine, request := engine.add_request(PROMPTS[2], config))
    assert len({tuple(tokens) for tokens in first}) == 3
    assert [len(tokens) for tokens in first] == [24] * 3
    # Seeded: the same again, also when the copies find no room and read the prompt themselves.
    tight = exact_engine(needle_f32_dir, pool_size=8 * 32, **UNIFORM)
    assert finish(tight, tight.add_request(PROMPTS[2], config)) == first
    assert request.generations[1].metrics.num_evicted_tokens > 0
    assert_nothing_held(engine)
    assert_nothing_held(tight)


def test_the_cache_stays_within_its_budget(needle_f32_dir: Path) -> None:
    engine = exact_engine(needle_f32_dir, **UNIFORM)
    request = engine.add_request(prompt_of(300), greedy(80))
    sequence = sequence_of(request)
    engine.step()
    assert sequence.num_kept == 96
    while not request.finished:
        engine.step()
        assert sequence.num_kept <= 96 + 16 if sequence.layers[0].pages else True
    metrics = request.generations[0].metrics
    assert metrics.kv_bytes == -(-metrics.kv_tokens // 32) * engine.model.page_bytes
    assert metrics.kv_bytes_full == 12 * engine.model.page_bytes
    assert metrics.num_evicted_tokens == 379 - metrics.kv_tokens


def test_a_budget_the_sequence_never_reaches_changes_nothing(
    needle_f32_dir: Path, alone: list[list[int]]
) -> None:
    engine = exact_engine(needle_f32_dir, max_cache_size=400)
    assert finish(engine, *[engine.add_request(p, greedy(24)) for p in PROMPTS]) == alone


@pytest.mark.parametrize("settings", [{}, UNIFORM], ids=["full", "evicting"])
def test_a_session_reads_only_what_is_new(needle_f32_dir: Path, settings: dict[str, Any]) -> None:
    engine = exact_engine(needle_f32_dir, **settings)
    session = Session()
    history = prompt_of(150)
    for turn in range(3):
        (answer,) = finish(engine, request := engine.add_request(history, greedy(10), session))
        reused = request.generations[0].metrics.num_reused_tokens
        # All but the answer's last token, which was never fed, and the new question.
        assert reused == (len(history) - 21 if turn else 0)
        history = [*history, *answer, *prompt_of(20, turn)]
    engine.close_session(session)
    assert_nothing_held(engine)


def test_an_edited_history_is_taken_back_where_the_cache_allows(needle_f32_dir: Path) -> None:
    engine = exact_engine(needle_f32_dir)
    session = Session()
    prompt = prompt_of(100)
    finish(engine, engine.add_request(prompt, greedy(10), session))
    edited = [*prompt[:60], *prompt_of(50, 9)]
    (tokens,) = finish(engine, request := engine.add_request(edited, greedy(10), session))
    assert request.generations[0].metrics.num_reused_tokens == 60
    assert tokens == finish(engine, engine.add_request(edited, greedy(10)))[0]


def test_an_edited_history_behind_a_cut_starts_over_and_says_so(needle_f32_dir: Path) -> None:
    engine = exact_engine(needle_f32_dir, prefix_caching=False, **UNIFORM)
    session = Session()
    prompt = prompt_of(200)
    finish(engine, engine.add_request(prompt, greedy(10), session))
    edited = [*prompt[:60], *prompt_of(150, 9)]
    (tokens,) = finish(engine, request := engine.add_request(edited, greedy(10), session))
    metrics = request.generations[0].metrics
    assert metrics.num_reused_tokens == 0
    assert "differs" in metrics.restarted
    assert tokens == finish(engine, engine.add_request(edited, greedy(10)))[0]
    # Taking back the answer alone stays within the recent area, which every head holds.
    again = engine.add_request(edited, greedy(10), session)
    finish(engine, again)
    assert again.generations[0].metrics.restarted == ""
    assert again.generations[0].metrics.num_reused_tokens == len(edited) - 1


def test_parked_chats_give_way_to_running_sequences(needle_f32_dir: Path) -> None:
    engine = exact_engine(needle_f32_dir, pool_size=8 * 32)
    session = Session()
    finish(engine, engine.add_request(prompt_of(100), greedy(4), session))
    assert session.token_ids
    finish(engine, engine.add_request(prompt_of(220, 5), greedy(4)))
    assert not session.token_ids
    assert_nothing_held(engine)


def test_cancelled_requests_leave_no_pages(needle_f32_dir: Path, alone: list[list[int]]) -> None:
    engine = exact_engine(needle_f32_dir, max_num_batched_tokens=64)
    requests = [engine.add_request(p, greedy(24)) for p in PROMPTS]
    engine.step()
    engine.cancel(requests[0])
    engine.cancel(requests[4])
    engine.check_integrity()
    assert finish(engine, *requests)[1:4] == alone[1:4]
    assert requests[0].generations[0].finish_reason == GenerationFinishReason.NONE
    assert_nothing_held(engine)


def test_prompts_that_cannot_run_are_refused(needle_f32_dir: Path) -> None:
    engine = exact_engine(needle_f32_dir, pool_size=64)
    with pytest.raises(PromptError, match="empty"):
        engine.add_request([], greedy(1))
    with pytest.raises(PromptError, match="65 tokens does not fit the KV cache: the pool holds 64"):
        engine.add_request(prompt_of(65), greedy(1))
    session = Session()
    with pytest.raises(PromptError, match="does not fit"):
        engine.add_request(prompt_of(65), greedy(1), session)
    request = engine.add_request(prompt_of(10), greedy(1), session)
    assert request.generations[0].metrics.restarted == ""
    with pytest.raises(ConfigError, match="still answering"):
        engine.add_request(prompt_of(10), greedy(1), session)


def test_page_granularity_wants_multiples_of_the_page(needle_f32_dir: Path) -> None:
    with pytest.raises(ConfigError, match="100 is not a multiple of the page size 32"):
        exact_engine(needle_f32_dir, granularity="page", max_cache_size=100, start_size=32,
                     recent_size=32)  # fmt: skip


def test_a_long_prompt_holds_up_nobody(needle_f32_dir: Path) -> None:
    engine = exact_engine(needle_f32_dir, max_num_batched_tokens=64)
    talking = [engine.add_request(prompt_of(20, seed), greedy(40)) for seed in range(3)]
    engine.step()
    reading = engine.add_request(prompt_of(500, 9), greedy(4))
    while not reading.generations[0].tokens:
        before = [len(request.generations[0].tokens) for request in talking]
        engine.step()
        assert [len(r.generations[0].tokens) for r in talking] == [n + 1 for n in before]
    # 61 tokens of the prompt fit beside the three in each step.
    assert len(talking[0].generations[0].tokens) == 1 + -(-500 // 61)
