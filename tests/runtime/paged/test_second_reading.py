"""Documents read twice: what is kept is what the second reading looked at, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaForCausalLM

from ov_kvcrush.errors import ConfigError, PromptError
from ov_kvcrush.runtime.eviction.peaks import INSTRUCTION, PeakMeter, Peaks
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.paged.second_reading import _STRIDE
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.damaged_sessions import Tensors, signed
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
from tests.support.gates import gated
from tests.support.session_process import ABOUT, ask, load

Make = Callable[..., PagedEngine]
# A stretch is 128 tokens, as a chunk.
READING = {**EVICTING, "prefill_budget": 128}
DOCUMENT = prompt_of(500)


@pytest.fixture(scope="module")
def make(needle_f32_dir: Path) -> Make:
    return partial(
        engine_of, needle_f32_dir, properties=F32, max_num_batched_tokens=128, pool_size=4096,
        **EXACT,
    )  # fmt: skip


def begin(engine: PagedEngine, tokens: list[int], thorough: bool = True) -> tuple[Session, Request]:
    session = Session(pinned=True, is_prefix=True, thorough=thorough)
    return session, engine.add_request(tokens, greedy(1), session)


def read(engine: PagedEngine, tokens: list[int], thorough: bool = True) -> Session:
    session, request = begin(engine, tokens, thorough)
    finish(engine, request)
    return session


def positions_of(session: Session) -> list[Any]:
    assert session.sequence is not None
    return [layer.positions.tolist() for layer in session.sequence.layers]


def scores_of(session: Session) -> list[Any]:
    assert session.sequence is not None
    return [None if one.gate is None else one.gate.tolist() for one in session.sequence.layers]


@contextmanager
def scores_before_cuts() -> Iterator[list[dict[int, NDArray[np.float32]]]]:
    """By second reading and layer, the scores ``[H, held]`` of what the cut is to choose from."""
    seen: list[dict[int, NDArray[np.float32]]] = []
    end = PeakMeter.end

    def listening(meter: PeakMeter, sequence: Sequence, peaks: Peaks, count: int) -> None:
        end(meter, sequence, peaks, count)
        gates = {n: sequence.layers[n].gate for n in meter.budgeted}
        seen.append({n: gate.copy() for n, gate in gates.items() if gate is not None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PeakMeter, "end", listening)
        yield seen


def test_scores_are_the_highest_attention_of_the_text_repeated(
    make: Make, needle_source_dir: Path
) -> None:
    engine = make(**READING, max_num_batched_tokens=512)
    engine._second_reading._most = 288  # so that it is read again in two parts
    document = prompt_of(380)
    with scores_before_cuts() as seen:
        read(engine, document)
    (scores,) = seen
    model = LlamaForCausalLM.from_pretrained(
        needle_source_dir, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    encoded = engine._tokenizer.encode(INSTRUCTION, add_special_tokens=False)
    instruction = encoded.input_ids.data[0].tolist()
    wanted = [np.zeros((4, 380), np.float32) for _ in range(engine.model.num_model_layers)]
    for part in (document[:190], document[190:]):
        tokens = [*document, *instruction, *part]
        rows = np.arange(len(tokens) - 1, len(tokens) - len(part) - 1, -_STRIDE)
        with torch.no_grad():
            told = model(torch.tensor([tokens]), output_attentions=True).attentions
        for n, attention in enumerate(told):
            paid = attention[0].numpy()[:, rows][:, :, :380].max(axis=1)
            heads = paid.reshape(4, -1, 380).max(axis=1)
            wanted[n] = np.maximum(wanted[n], heads)
    for n, found in scores.items():
        layer = engine.model.cache_layers[n]
        exact = wanted[layer.layer][list(layer.heads)]
        np.testing.assert_allclose(np.exp(found), exact, rtol=2e-3, atol=1e-6)


def test_what_scores_highest_is_kept(make: Make) -> None:
    engine = make(
        **READING, layer_budgets="uniform", representatives="gate", representative_share=1.0
    )
    with scores_before_cuts() as seen:
        session = read(engine, prompt_of(256))
    assert [one[0].shape[1] for one in seen] == [128, 256]
    start, recent = EVICTING["start_size"], EVICTING["recent_size"]
    count = EVICTING["max_cache_size"] - start - recent
    assert session.sequence is not None
    # At 128 tokens there was nothing to cut, so all were there to be chosen from in the end.
    for n, layer in enumerate(session.sequence.layers):
        for head, positions in enumerate(layer.positions):
            scores = seen[1][n][head]
            ranked = sorted(range(start, 256 - recent), key=lambda t: (-scores[t], t))
            assert positions[start : start + count].tolist() == sorted(ranked[:count])


def test_another_reading_chooses_otherwise_and_answers_go_on(make: Make) -> None:
    engine = make(**READING)
    once, twice = read(engine, DOCUMENT, thorough=False), read(engine, DOCUMENT)
    assert positions_of(once) != positions_of(twice)
    assert [len(one[0]) for one in positions_of(once)] == [
        len(one[0]) for one in positions_of(twice)
    ]
    chat = Session()
    request = engine.add_request([*DOCUMENT, *prompt_of(30, 1)], greedy(60), chat, twice)
    finish(engine, request)
    assert request.generations[0].metrics.num_reused_tokens == len(DOCUMENT)
    assert chat.sequence is not None
    made = [cut.thorough for cut in chat.sequence.cuts]
    num_thorough = made.index(False)
    assert made == [True] * num_thorough + [False] * (len(made) - num_thorough)
    assert len(made) > num_thorough + 1


@pytest.mark.parametrize("prefill_budget", [0, 128])
def test_pages_are_those_of_the_reading_and_a_few(make: Make, prefill_budget: int) -> None:
    engine = make(**EVICTING, prefill_budget=prefill_budget)
    peaks = []
    for thorough in (False, True):
        session, request = begin(engine, DOCUMENT, thorough)
        sequence = sequence_of(request)
        stages = engine._intake._planner.pages_at_most(sequence)
        most = max(map(engine.cache.bytes_of_pages, stages))
        finish(engine, request)
        peaks.append(request.generations[0].metrics.kv_bytes_peak)
        assert peaks[-1] <= most
        engine.close_session(session)
    most = engine._intake._planner.most_read_again
    few = [pages_for(most) + 1] * len(engine.model.layers)
    assert peaks[0] < peaks[1] <= peaks[0] + engine.cache.bytes_of_pages(few)
    assert_nothing_held(engine)


def test_a_pool_that_holds_one_reading_but_not_two_refuses_the_second(make: Make) -> None:
    engine = make(**READING, pool_size=288, prefix_caching=False, layer_budgets="uniform")
    engine.close_session(read(engine, DOCUMENT, thorough=False))
    with pytest.raises(PromptError, match="does not fit"):
        begin(engine, DOCUMENT)
    assert_nothing_held(engine)
    # What it asks for it can do with.
    extra = 32 * (pages_for(engine._intake._planner.most_read_again) + 1)
    engine = make(**READING, pool_size=256 + extra, prefix_caching=False, layer_budgets="uniform")
    engine.close_session(read(engine, DOCUMENT))
    assert_nothing_held(engine)


def test_two_at_once_in_a_pool_for_one_both_end(make: Make) -> None:
    engine = make(**READING, pool_size=640, prefix_caching=False, layer_budgets="uniform")
    wanted = positions_of(read(make(**READING, layer_budgets="uniform"), DOCUMENT))
    (first, one), (second, other) = begin(engine, DOCUMENT), begin(engine, prompt_of(450, 1))
    finish(engine, one, other)
    assert positions_of(first) == wanted
    assert second.sequence is not None
    assert second.sequence.num_cached == 450


def test_what_is_preempted_is_read_twice_again(make: Make) -> None:
    engine = make(**READING, prefix_caching=False)
    wanted = read(engine, DOCUMENT)
    session, request = begin(engine, DOCUMENT)
    sequence = sequence_of(request)
    for _ in range(3):
        engine.step()
    engine.preempt(sequence)
    finish(engine, request)
    assert request.generations[0].metrics.num_preemptions == 1
    assert positions_of(session) == positions_of(wanted)
    assert scores_of(session) == scores_of(wanted)


def test_others_are_answered_meanwhile_as_if_alone(make: Make) -> None:
    engine = make(**READING, prefix_caching=False)
    alone = finish(engine, engine.add_request(prompt_of(60, 2), greedy(30)))
    wanted = positions_of(read(engine, DOCUMENT))
    answering = engine.add_request(prompt_of(60, 2), greedy(30))
    session, reading = begin(engine, DOCUMENT)
    assert finish(engine, answering, reading)[:1] == alone
    assert positions_of(session) == wanted


def test_one_that_is_cancelled_in_the_middle_leaves_nothing(make: Make) -> None:
    engine = make(**READING)
    session, request = begin(engine, DOCUMENT)
    for _ in range(3):
        engine.step()
    engine.cancel(request)
    engine.close_session(session)
    assert not engine.has_unfinished()
    assert_nothing_held(engine)


def test_nobody_begins_with_the_other_reading(make: Make) -> None:
    engine = make(**READING)
    short = prompt_of(90, 5)
    read(engine, short)
    read(engine, DOCUMENT)
    for prompt in (short, DOCUMENT):
        request = engine.add_request([*prompt, 9, 10], greedy(2))
        finish(engine, request)
        assert request.generations[0].metrics.num_reused_tokens == 0
    # A second one of the same kind does.
    again, request = begin(engine, [*DOCUMENT, *prompt_of(100, 3)])
    finish(engine, request)
    assert request.generations[0].metrics.num_reused_tokens > 0
    other = read(make(**READING, prefix_caching=False), [*DOCUMENT, *prompt_of(100, 3)])
    assert positions_of(again) == positions_of(other)


@pytest.mark.parametrize("has_gate", [False, True])
def test_a_session_read_twice_resumes(
    make: Make, needle_f32_dir: Path, tmp_path: Path, has_gate: bool
) -> None:
    settings = dict(READING)
    if has_gate:
        folder = gated(tmp_path, needle_f32_dir)
        make = partial(
            engine_of, folder, properties=F32, max_num_batched_tokens=128, pool_size=4096, **EXACT
        )
    engine, path = make(**settings), tmp_path / "document.safetensors"
    document = read(engine, DOCUMENT)
    engine.save_session(document, path, ABOUT)
    other = make(**settings)
    resumed = load(other, path)
    assert scores_of(resumed) == scores_of(document)
    assert resumed.sequence is not None
    assert resumed.sequence.thorough
    chat = Session()
    prompt = [*DOCUMENT, *prompt_of(60, 1)]
    answer = finish(engine, engine.add_request(prompt, greedy(40), chat, document))
    assert [ask(other, resumed, prompt_of(60, 1))] == answer
    assert ask(other, resumed, prompt_of(200, 2)) == ask(engine, chat, prompt_of(200, 2))
    assert positions_of(resumed) == positions_of(chat)
    assert scores_of(resumed) == scores_of(chat)
    # Scores of a second reading do not depend on a gate.
    without = load(engine_of(needle_f32_dir, properties=F32, **EXACT, **settings), path)
    assert scores_of(without) == scores_of(read(engine, DOCUMENT))


def _forget_thorough(metadata: dict[str, str], content: dict[str, Any], tensors: Tensors) -> None:
    del content["state"]["is_thorough"]
    for cut in content["state"]["cuts"]:
        del cut["thorough"]


def test_a_file_that_knows_of_no_second_reading_loads(make: Make, tmp_path: Path) -> None:
    engine, path = make(**READING), tmp_path / "document.safetensors"
    document = read(engine, DOCUMENT, thorough=False)
    engine.save_session(document, path, ABOUT)
    signed(_forget_thorough)(path)
    resumed = load(make(**READING), path)
    assert positions_of(resumed) == positions_of(document)
    assert resumed.sequence is not None
    assert not resumed.sequence.thorough
    assert document.sequence is not None
    assert resumed.sequence.cuts == document.sequence.cuts


def test_without_a_budget_it_is_refused(make: Make) -> None:
    engine = make()
    with pytest.raises(ConfigError, match="nothing is evicted") as refusal:
        begin(engine, DOCUMENT)
    assert "max_cache_size" in refusal.value.hint
    assert_nothing_held(engine)
