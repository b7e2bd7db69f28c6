"""Given tokens over cut forks: the same caches, and the same answers, as the engine has."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.scoring.cutter import cuts_while_reading
from ov_kvcrush.runtime.scoring.scorer import Scorer
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.engines import F32, engine_of, finish, greedy, prompt_of, read_prompt
from tests.support.gates import gated, ungated

PROMPT = prompt_of(500, 5)
CHUNK = 128
POLICIES: dict[str, dict[str, Any]] = {
    "default": {},
    "half": {"prefill_representative_share": 0.5, "window_size": 8},
    "snapkv": {"representatives": "none", "layer_budgets": "uniform", "window_size": 24},
    "adaptive": {"layer_budgets": "adaptive", "window_size": 4},
    "h2o": {"importance": "h2o", "representatives": "none", "layer_budgets": "uniform"},
    "rank": {"representatives": "rank", "granularity": "page", "start_size": 32, "recent_size": 32},
}
SIZES = {"max_cache_size": 96, "start_size": 10, "recent_size": 30}


def settings_of(name: str, **changes: Any) -> dict[str, Any]:
    return {**SIZES, "prefill_budget": 0, **POLICIES[name], **changes}


@pytest.fixture(scope="module")
def scorer(needle_f32_dir: Path) -> Scorer:
    return Scorer(
        needle_f32_dir,
        "CPU",
        KVCacheConfig(pool_size=4096, prefix_caching=False),
        {name: KVCacheConfig(**settings_of(name)) for name in POLICIES},
        F32,
        CHUNK,
    )


def held(model: PagedModel, sequence: Sequence) -> list[NDArray[np.int32]]:
    """Positions that each KV head holds, in the order of layers and heads."""
    found = {
        (layer.layer, head): positions.copy()
        for layer, cache in zip(model.cache_layers, sequence.layers, strict=True)
        for head, positions in zip(layer.heads, cache.positions, strict=True)
    }
    return [found[key] for key in sorted(found)]


def assert_alike(ours: list[NDArray[np.int32]], theirs: list[NDArray[np.int32]]) -> None:
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, its)


def assert_nothing_held(scorer: Scorer) -> None:
    scorer.cache.check_integrity([])
    assert scorer.cache.used_bytes == 0


@pytest.mark.parametrize("name", POLICIES)
def test_a_cut_fork_holds_and_says_what_the_engine_does(
    scorer: Scorer, needle_f32_dir: Path, name: str
) -> None:
    engine = engine_of(
        needle_f32_dir,
        properties=F32,
        max_num_batched_tokens=CHUNK,
        pool_size=4096,
        **settings_of(name),
    )
    kept = held(engine.model, read_prompt(engine, PROMPT))
    request = engine.add_request(PROMPT, greedy(12))
    (wanted,) = finish(engine, request)
    cutter = scorer.cutters[name]
    with scorer.begun(PROMPT) as base:
        first = int(scorer.read(base, len(PROMPT)).argmax())
        uncut = held(scorer._model, base)
        with scorer.forked(base, PROMPT, cutter) as cut:
            cutter.cut(cut, scorer.cache, Cut(len(PROMPT), 96))
            assert_alike(held(scorer._model, cut), kept)
            with scorer.forked(cut, PROMPT) as twin:
                assert scorer.continue_greedily(twin, first, 12, ()) == wanted
            cut.tokens += wanted[:-1]
            (logits,) = scorer.logits((cut, 11))
            assert logits.argmax(axis=1).tolist() == wanted[1:]
        # What was done with forks has not changed what they were forked from.
        assert_alike(held(scorer._model, base), uncut)
        with scorer.forked(base, PROMPT) as twin:
            full = scorer.continue_greedily(twin, first, 12, ())
        with scorer.begun(PROMPT) as other:
            scorer.read(other, len(PROMPT))
            assert scorer.continue_greedily(other, first, 12, ()) == full
    assert_nothing_held(scorer)


@pytest.mark.parametrize("name", ["default", "half", "h2o", "snapkv"])
def test_a_prompt_is_cut_while_it_is_read_as_the_engine_does(
    scorer: Scorer, needle_f32_dir: Path, name: str
) -> None:
    engine = engine_of(
        needle_f32_dir,
        properties=F32,
        max_num_batched_tokens=CHUNK,
        pool_size=4096,
        **settings_of(name, prefill_budget=128),
    )
    kept = held(engine.model, read_prompt(engine, PROMPT))
    request = engine.add_request(PROMPT, greedy(6))
    (wanted,) = finish(engine, request)
    cutter = scorer.cutters[name]
    cuts = cuts_while_reading(len(PROMPT), 96, 128, CHUNK)
    # The first 128 tokens are within the budget, so the first cut is the second boundary's.
    assert [cut.num_cached for cut in cuts] == [256, 384, 500]
    with scorer.begun(PROMPT) as base:
        scorer.read(base, cuts[0].num_cached)
        with scorer.forked(base, PROMPT, cutter) as cut:
            first = int(scorer.read_cutting(cut, cutter, cuts).argmax())
            assert_alike(held(scorer._model, cut), kept)
            assert scorer.continue_greedily(cut, first, 6, ()) == wanted
    assert_nothing_held(scorer)


def test_a_text_that_goes_on_is_cut_as_a_cached_prefix_is(
    scorer: Scorer, needle_f32_dir: Path
) -> None:
    engine = engine_of(
        needle_f32_dir,
        properties=F32,
        max_num_batched_tokens=CHUNK,
        pool_size=4096,
        **settings_of("default"),
    )
    session = Session(is_prefix=True)
    finish(engine, engine.add_request(PROMPT, greedy(1), session))
    assert session.sequence is not None
    cutter = scorer.cutters["default"]
    with scorer.begun(PROMPT) as base:
        scorer.read(base, len(PROMPT))
        with scorer.forked(base, PROMPT, cutter) as cut:
            cutter.cut(cut, scorer.cache, Cut(len(PROMPT), 96, reads_on=True))
            assert_alike(held(scorer._model, cut), held(engine.model, session.sequence))


def test_the_models_gate_chooses_as_in_the_engine(needle_f32_dir: Path, tmp_path: Path) -> None:
    folder = gated(tmp_path, needle_f32_dir)
    engine = engine_of(
        folder,
        properties=F32,
        max_num_batched_tokens=CHUNK,
        pool_size=4096,
        **settings_of("default", prefill_budget=128),
    )
    kept = held(engine.model, read_prompt(engine, PROMPT))
    policies = {name: KVCacheConfig(**settings_of(name)) for name in ("snapkv", "default")}
    config = KVCacheConfig(pool_size=4096, prefix_caching=False)
    scorer = Scorer(folder, "CPU", config, policies, F32, CHUNK)
    cutter = scorer.cutters["default"]
    with scorer.begun(PROMPT) as base:
        cuts = cuts_while_reading(len(PROMPT), 96, 128, CHUNK)
        scorer.read(base, cuts[0].num_cached)
        with scorer.forked(base, PROMPT, cutter) as cut:
            scorer.read_cutting(cut, cutter, cuts)
            assert cut.is_scored
            assert_alike(held(scorer._model, cut), kept)


def test_a_gate_that_is_not_there_is_refused(needle_f32_dir: Path, tmp_path: Path) -> None:
    policies = {"gate": KVCacheConfig(**settings_of("snapkv", representatives="gate"))}
    config = KVCacheConfig(pool_size=4096, prefix_caching=False)
    with pytest.raises(ConfigError, match="the model has none"):
        Scorer(ungated(tmp_path, needle_f32_dir), "CPU", config, policies, F32, CHUNK)


def test_several_continuations_are_read_in_one_inference(scorer: Scorer) -> None:
    answers = prompt_of(9, 1), prompt_of(4, 2)
    with scorer.begun(PROMPT) as base:
        scorer.read(base, len(PROMPT))
        apart = []
        for answer in answers:
            with scorer.forked(base, [*PROMPT, *answer]) as twin:
                apart.append(scorer.logits((twin, len(answer)))[0].copy())
        with (
            scorer.forked(base, [*PROMPT, *answers[0]]) as one,
            scorer.forked(base, [*PROMPT, *answers[1]]) as other,
        ):
            together = scorer.logits((one, 9), (other, 4))
            for alone, beside in zip(apart, together, strict=True):
                np.testing.assert_allclose(beside, alone, atol=1e-3)
        with scorer.forked(base, PROMPT) as twin:
            assert scorer.logits((twin, 0))[0].shape[0] == 0
    assert_nothing_held(scorer)


def test_an_answer_stops_at_an_end_token_which_belongs_to_it(scorer: Scorer) -> None:
    with scorer.begun(PROMPT) as base:
        first = int(scorer.read(base, len(PROMPT)).argmax())
        with scorer.forked(base, PROMPT) as twin:
            answer = scorer.continue_greedily(twin, first, 8, ())
        with scorer.forked(base, PROMPT) as twin:
            place = answer.index(answer[2])
            assert scorer.continue_greedily(twin, first, 8, {answer[2]}) == answer[: place + 1]
    assert_nothing_held(scorer)


def test_what_is_read_together_is_followed_by_the_same_tokens(scorer: Scorer) -> None:
    rests = [prompt_of(length, length) for length in (1, 90, 300, 3, 128)]
    with ExitStack() as held:
        base = held.enter_context(scorer.begun(PROMPT))
        scorer.read(base, len(PROMPT))
        wanted = []
        for rest in rests:
            with scorer.forked(base, [*PROMPT, *rest]) as twin:
                wanted.append(int(scorer.read(twin, len(twin.tokens)).argmax()))
        twins = [held.enter_context(scorer.forked(base, [*PROMPT, *rest])) for rest in rests]
        assert scorer.read_together(twins) == wanted
        assert [twin.num_uncached for twin in twins] == [0] * len(twins)
        assert scorer.read_together([]) == []
    assert_nothing_held(scorer)


def test_answers_written_together_are_those_written_alone(scorer: Scorer) -> None:
    prompts = [prompt_of(60, seed) for seed in range(4)]
    mosts = [1, 9, 4, 9]
    with ExitStack() as held:
        begun = [held.enter_context(scorer.begun(prompt)) for prompt in prompts]
        firsts = [int(scorer.read(one, 60).argmax()) for one in begun]
        alone = []
        for one, first, most in zip(begun, firsts, mosts, strict=True):
            with scorer.forked(one, one.tokens) as twin:
                alone.append(scorer.continue_greedily(twin, first, most, ()))
        end = alone[1][5]
        wanted = [a[: a.index(end) + 1] if end in a else a for a in alone]
        asked = list(zip(begun, firsts, mosts, strict=True))
        assert scorer.answer_together(asked, {end}) == wanted
        assert scorer.answer_together([], {end}) == []
    assert len(wanted[1]) <= 6
    assert_nothing_held(scorer)


def test_what_fails_gives_its_pages_back(scorer: Scorer) -> None:
    def fail() -> None:
        with scorer.begun(PROMPT) as base:
            scorer.read(base, 200)
            with scorer.forked(base, PROMPT):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert_nothing_held(scorer)


def test_cuts_within_the_budget_are_left_out_but_for_the_last() -> None:
    assert cuts_while_reading(90, 100, 150, 128) == [Cut(90, 100)]
    assert cuts_while_reading(1000, 100, 0, 128) == [Cut(1000, 100)]
    assert cuts_while_reading(400, 100, 150, 128) == [
        Cut(256, 150, reads_on=True),
        Cut(384, 150, reads_on=True),
        Cut(400, 100),
    ]
