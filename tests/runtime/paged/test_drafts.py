"""Prompt lookup in the engine: the same tokens, cuts and pages as without, in fewer steps.

Everything is in f32, where several tokens at once are computed as one by one are but for the last
bits of a sum; what is drafted is right in part, so that each step keeps some of it and not all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openvino_genai import GenerationFinishReason

from ov_kvcrush.errors import UnsupportedError
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.drafts import LENGTH, guesses, no_drafts
from tests.support.engines import (
    EVICTING,
    EXACT,
    F32,
    assert_nothing_held,
    engine_of,
    finish,
    greedy,
    prompt_of,
)
from tests.support.half_sliding import export_half_sliding

SAMPLING: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.9,
    "top_p": 0.95,
    "top_k": 40,
    "rng_seed": 7,
}
PENALTIES: dict[str, Any] = {
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
}
# Nearly every token is another one.
WILD: dict[str, Any] = {"do_sample": True, "temperature": 1.6, "rng_seed": 3}
PROMPT = prompt_of(75, 1)


def drafting(folder: Path, **settings: Any) -> PagedEngine:
    settings = {"pool_size": 4096, **EXACT, **settings}
    return engine_of(folder, properties=F32, prompt_lookup=LENGTH, **settings)


def ask(engine: PagedEngine, prompt: list[int], count: int, **settings: Any) -> Request:
    request = engine.add_request(prompt, greedy(count, **settings))
    finish(engine, request)
    return request


def ask_plainly(engine: PagedEngine, prompt: list[int], count: int, **settings: Any) -> Request:
    with no_drafts():
        return ask(engine, prompt, count, **settings)


def answers_of(prompts: list[list[int]], found: list[list[int]]) -> list[list[int]]:
    return [[*prompt, *answer] for prompt, answer in zip(prompts, found, strict=True)]


@pytest.fixture(scope="module")
def engine(needle_f32_dir: Path) -> PagedEngine:
    return drafting(needle_f32_dir)


@pytest.fixture(scope="module")
def sliding_dir() -> Path:
    """A model with two layers that see all and two that have a window."""
    return export_half_sliding()


@pytest.mark.parametrize(
    "settings",
    [{}, PENALTIES, SAMPLING, SAMPLING | PENALTIES, {"min_new_tokens": 30}, {"logprobs": 3}],
    ids=["greedy", "penalties", "sampling", "both", "min tokens", "logprobs"],
)
def test_the_same_tokens_come_in_fewer_steps(engine: PagedEngine, settings: dict[str, Any]) -> None:
    plain = ask_plainly(engine, PROMPT, 60, **settings).generations[0]
    with guesses([[*PROMPT, *plain.tokens]]):
        drafted = ask(engine, PROMPT, 60, **settings).generations[0]
    assert drafted.tokens == plain.tokens
    assert len(drafted.metrics.token_times) == 60
    assert 0 < drafted.metrics.num_accepted_tokens < drafted.metrics.num_drafted_tokens
    assert len(drafted.metrics.inference_times) == (
        len(plain.metrics.inference_times) - drafted.metrics.num_accepted_tokens
    )
    np.testing.assert_allclose(drafted.log_probs, plain.log_probs, atol=1e-4)
    assert [len(top) for top in drafted.top] == [len(top) for top in plain.top]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_an_answer_is_never_longer_than_it_may_be(engine: PagedEngine, count: int) -> None:
    plain = ask_plainly(engine, PROMPT, 12).generations[0]
    with guesses([[*PROMPT, *plain.tokens]], share_true=1.0):
        drafted = ask(engine, PROMPT, count).generations[0]
    assert drafted.tokens == plain.tokens[:count]
    assert drafted.finish_reason == GenerationFinishReason.LENGTH


def test_a_stop_token_inside_a_draft_ends_the_answer(engine: PagedEngine) -> None:
    plain = ask_plainly(engine, PROMPT, 30, **WILD).generations[0]
    last = next(n for n in range(8, 30) if plain.tokens[n] not in plain.tokens[:n])
    config = greedy(30, **WILD, stop_token_ids={plain.tokens[last]})
    config.ignore_eos = False
    with guesses([[*PROMPT, *plain.tokens]], share_true=1.0):
        request = engine.add_request(PROMPT, config)
        finish(engine, request)
    assert request.generations[0].tokens == plain.tokens[: last + 1]
    assert request.generations[0].finish_reason == GenerationFinishReason.STOP


def test_a_stop_string_inside_a_draft_ends_it_and_a_chat_goes_on_from_before(
    engine: PagedEngine,
) -> None:
    tokenizer = engine._tokenizer
    plain = ask_plainly(engine, PROMPT, 30, **WILD).generations[0]
    text = tokenizer.decode(plain.tokens[10:14]).strip()
    config = greedy(30, **WILD, stop_strings={text})
    answers = []
    for drafts in (False, True):
        session = Session()
        with guesses([[*PROMPT, *plain.tokens]], 1.0) if drafts else no_drafts():
            first = engine.add_request(PROMPT, config, session)
            finish(engine, first)
            ids = session.token_ids + prompt_of(9, 3)
            second = engine.add_request(ids, greedy(8), session)
            finish(engine, second)
        assert session.sequence is not None
        answers.append((first.generations[0].tokens, second.generations[0].tokens))
        assert second.generations[0].metrics.num_reused_tokens >= len(PROMPT)
        engine.close_session(session)
    assert answers[0] == answers[1]
    assert len(answers[0][0]) < 30


def test_several_sequences_share_the_drafts_of_a_step(engine: PagedEngine) -> None:
    prompts = [prompt_of(40 + seed, seed) for seed in range(5)]
    plain = [ask_plainly(engine, prompt, 40).generations[0].tokens for prompt in prompts]
    with guesses(answers_of(prompts, plain)):
        requests = [engine.add_request(prompt, greedy(40)) for prompt in prompts]
        found = finish(engine, *requests)
    assert found == plain
    assert all(request.generations[0].metrics.num_accepted_tokens for request in requests)


def test_nothing_is_drafted_where_many_sequences_fill_a_step(engine: PagedEngine) -> None:
    prompts = [prompt_of(20, seed) for seed in range(16)]
    with guesses([], share_true=0.0):
        requests = [engine.add_request(prompt, greedy(6)) for prompt in prompts]
        finish(engine, *requests)
    assert not any(one.generations[0].metrics.num_drafted_tokens for one in requests)


def test_several_answers_to_one_prompt_are_drafted_apart(engine: PagedEngine) -> None:
    plain = ask_plainly(engine, PROMPT, 30, num_return_sequences=3, **SAMPLING)
    wanted = [one.tokens for one in plain.generations]
    assert wanted[0] != wanted[1]
    with guesses([[*PROMPT, *tokens] for tokens in wanted]):
        drafted = ask(engine, PROMPT, 30, num_return_sequences=3, **SAMPLING)
    assert [one.tokens for one in drafted.generations] == wanted
    assert all(one.metrics.num_accepted_tokens for one in drafted.generations)


def test_a_preempted_sequence_is_drafted_on(engine: PagedEngine) -> None:
    plain = ask_plainly(engine, PROMPT, 40).generations[0].tokens
    with guesses([[*PROMPT, *plain]]):
        request = engine.add_request(PROMPT, greedy(40))
        sequence = request.generations[0].sequence
        assert sequence is not None
        while len(request.generations[0].tokens) < 15:
            engine.step()
        engine.preempt(sequence)
        assert finish(engine, request) == [plain]


def test_drafts_take_no_page_that_somebody_holds(needle_f32_dir: Path) -> None:
    engine = drafting(needle_f32_dir, pool_size=128, prefix_caching=False)
    session = Session()
    held = engine.add_request(prompt_of(50, 4), greedy(2), session)
    finish(engine, held)
    prompt = prompt_of(30, 5)
    plain = ask_plainly(engine, prompt, 2).generations[0].tokens
    assert session.sequence is not None
    with guesses([[*prompt, *plain, *prompt_of(60, 6)]], share_true=1.0):
        ask(engine, prompt, 30)
    assert session.sequence is not None


class _Cuts:
    """What is true of each cut: when it was made, and what it has left."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[int, list[list[list[int]]]]] = []
        note = Sequence.note_cut

        def noted(sequence: Sequence, cut: Cut, recent_size: int) -> None:
            note(sequence, cut, recent_size)
            left = [layer.positions.tolist() for layer in sequence.layers]
            self.made.append((sequence.num_cached, left))

        patch.setattr(Sequence, "note_cut", noted)


@pytest.mark.parametrize("importance", ["snapkv", "keydiff", "streaming"])
def test_cuts_are_made_at_the_same_tokens_and_leave_the_same(
    needle_f32_dir: Path, importance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = drafting(needle_f32_dir, importance=importance, **EVICTING)
    cuts = _Cuts(monkeypatch)
    prompt = prompt_of(150, 2)
    plain = ask_plainly(engine, prompt, 90).generations[0]
    wanted, cuts.made = cuts.made, []
    assert len(wanted) > 4
    engine.prefixes.clear()
    with guesses([[*prompt, *plain.tokens]]):
        drafted = ask(engine, prompt, 90).generations[0]
    assert drafted.tokens == plain.tokens
    assert cuts.made == wanted
    assert drafted.metrics.num_accepted_tokens > 20
    assert drafted.metrics.kv_bytes == plain.metrics.kv_bytes
    assert_nothing_held(engine)


def test_sliding_windows_slide_as_without(sliding_dir: Path) -> None:
    engine = drafting(sliding_dir, max_num_batched_tokens=96, **EVICTING)
    prompt = prompt_of(150, 2)
    plain = ask_plainly(engine, prompt, 90).generations[0]
    engine.prefixes.clear()
    with guesses([[*prompt, *plain.tokens]]):
        drafted = ask(engine, prompt, 90).generations[0]
    assert drafted.tokens == plain.tokens
    assert drafted.metrics.num_accepted_tokens > 20
    assert drafted.metrics.kv_bytes == plain.metrics.kv_bytes


def test_what_sums_up_attention_drafts_nothing(needle_f32_dir: Path) -> None:
    engine = drafting(needle_f32_dir, importance="h2o", **EVICTING)
    assert engine.describe().prompt_lookup == 0
    with guesses([], share_true=0.0):
        request = ask(engine, PROMPT, 8, num_assistant_tokens=5, max_ngram_size=3)
    assert request.generations[0].metrics.num_drafted_tokens == 0


def test_a_forked_sequence_never_writes_into_what_others_hold(engine: PagedEngine) -> None:
    document = Session(pinned=True, is_prefix=True)
    text = prompt_of(100, 8)
    finish(engine, engine.add_request(text, greedy(1), document))
    prompts = [text + prompt_of(12, seed) for seed in (20, 21)]

    def asked() -> list[list[int]]:
        requests = [engine.add_request(p, greedy(30), prefix=document) for p in prompts]
        return finish(engine, *requests)

    with no_drafts():
        plain = asked()
    with guesses(answers_of(prompts, plain), share_true=0.5):
        assert asked() == plain
    engine.prefixes.clear()
    with no_drafts():
        assert asked() == plain
    engine.close_session(document)
    assert_nothing_held(engine)


def test_the_draft_is_found_in_the_text_itself(needle_int8_dir: Path) -> None:
    engine = engine_of(needle_int8_dir, prompt_lookup=10, pool_size=2048)
    assert engine.describe().prompt_lookup == 10
    # Random tokens, and a model that keeps on repeating itself: it ends in a circle.
    request = ask(engine, prompt_of(30, 3) * 3, 150)
    metrics, ended = request.generations[0].metrics, engine.metrics().to_dict()["tokens"]
    assert metrics.num_accepted_tokens <= metrics.num_drafted_tokens
    assert ended["drafted"] == metrics.num_drafted_tokens
    assert ended["accepted"] == metrics.num_accepted_tokens


def test_a_request_may_say_how_much_is_drafted(engine: PagedEngine) -> None:
    request = engine.add_request(PROMPT, greedy(4, num_assistant_tokens=3, max_ngram_size=2))
    drafter = request.generations[0].drafter
    assert drafter is not None
    assert drafter.most == 3
    finish(engine, request)


def test_a_request_for_drafts_is_refused_where_none_are_made(needle_f32_dir: Path) -> None:
    engine = engine_of(needle_f32_dir, pool_size=512)
    for name in ("num_assistant_tokens", "max_ngram_size"):
        with pytest.raises(UnsupportedError, match=f"^{name} is 3, .*without prompt lookup") as no:
            engine.add_request(PROMPT, greedy(4, **{name: 3}))
        assert "prompt_lookup=True" in no.value.hint
    assert engine.metrics().num_requests == 0
