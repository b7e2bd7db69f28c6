"""From logits to tokens: filters against transformers', penalties, draws, odd rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from openvino_genai import GenerationConfig
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ov_kvcrush.errors import ModelError
from ov_kvcrush.runtime.generation.sampler import Multinomial, Sampler, draw

Row = NDArray[np.float32]

VOCAB = 3000
RANDOM = np.random.default_rng(7)
ROWS = {
    "ordinary": RANDOM.normal(0, 3, VOCAB).astype(np.float32),
    "peaked": np.where(np.arange(VOCAB) == 1234, 30, RANDOM.normal(0, 1, VOCAB)).astype(np.float32),
    "flat": np.linspace(0, 1e-3, VOCAB, dtype=np.float32),
    "huge": (RANDOM.normal(0, 3, VOCAB) + 1e4).astype(np.float32),
}
FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.25},
    {"temperature": 1e-30},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": VOCAB + 5},
    {"top_k": 0},
    {"top_p": 0.9},
    {"top_p": 0.01},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"min_p": 0.9},
    {"temperature": 0.7, "top_k": 50, "top_p": 0.9},
    {"temperature": 1.5, "top_k": 50, "top_p": 0.8, "min_p": 0.1},
    {"temperature": 1.5, "top_p": 0.5, "min_p": 0.02},
]


def sampling(**settings: Any) -> GenerationConfig:
    return GenerationConfig(do_sample=True, max_new_tokens=8, **settings)


def probabilities(row: Row, settings: dict[str, Any]) -> NDArray[np.float64]:
    ids, scores = Multinomial(sampling(**settings)).candidates(row)
    assert len(set(ids.tolist())) == len(ids)
    weights = np.zeros(len(row))
    weights[ids] = np.exp(scores.astype(np.float64))
    return np.asarray(weights / weights.sum())


def transformers_probabilities(row: Row, settings: dict[str, Any]) -> NDArray[np.float64]:
    warpers = LogitsProcessorList()
    for name, warper in (
        ("temperature", TemperatureLogitsWarper),
        ("top_k", TopKLogitsWarper),
        ("top_p", TopPLogitsWarper),
        ("min_p", MinPLogitsWarper),
    ):
        if settings.get(name):
            warpers.append(warper(settings[name]))
    scores = warpers(torch.zeros(1, 1, dtype=torch.long), torch.from_numpy(row).double()[None])
    return np.asarray(scores.softmax(-1)[0])


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("settings", FILTERS, ids=str)
def test_candidates_and_probabilities_are_those_of_transformers(
    row: str, settings: dict[str, Any]
) -> None:
    ours = probabilities(ROWS[row], settings)
    theirs = transformers_probabilities(ROWS[row], settings)
    np.testing.assert_array_equal(ours > 0, theirs > 0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_draws_follow_the_probabilities() -> None:
    row = RANDOM.normal(0, 1, VOCAB).astype(np.float32)
    expected = probabilities(row, {"temperature": 0.8})
    sampler = Sampler(sampling(temperature=0.8), [])
    num_draws = 40_000
    counts = np.bincount([sampler.sample(row).token for _ in range(num_draws)], minlength=VOCAB)
    bins = np.arange(0, VOCAB, 30)
    observed = np.add.reduceat(counts, bins)
    wanted = np.add.reduceat(expected, bins) * num_draws
    chi_square = ((observed - wanted) ** 2 / wanted).sum()
    degrees = len(bins) - 1
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


def test_a_token_without_probability_is_never_drawn() -> None:
    row = np.full(VOCAB, -np.inf, dtype=np.float32)
    alive = [0, 511, 512, 1700, VOCAB - 1]
    row[alive] = 0.0
    sampler = Sampler(sampling(), [])
    assert {sampler.sample(row).token for _ in range(500)} == set(alive)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-53])
def test_rounding_never_draws_a_weight_of_zero(uniform: float) -> None:
    for _ in range(50):
        weights = RANDOM.random(VOCAB, dtype=np.float32)
        weights[:5] = weights[-400:] = 0.0
        index, total = draw(weights, uniform)
        assert weights[index] > 0
        assert total == pytest.approx(weights.sum(dtype=np.float64), rel=1e-5)


def test_same_seed_same_tokens_other_seed_or_index_others() -> None:
    def draw(seed: int, index: int) -> list[int]:
        sampler = Sampler(sampling(rng_seed=seed), [], index)
        return [sampler.sample(ROWS["ordinary"]).token for _ in range(20)]

    assert draw(3, 0) == draw(3, 0)
    assert len({tuple(draw(seed, index)) for seed in (3, 4) for index in (0, 1)}) == 4


def test_logits_are_not_changed() -> None:
    row = ROWS["ordinary"].copy()
    every = {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.5}
    for settings in ({}, every, {"temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1}):
        for do_sample in (False, True):
            config = GenerationConfig(
                do_sample=do_sample, min_new_tokens=1, stop_token_ids={5}, **settings
            )
            sampler = Sampler(config, [1, 2, 3])
            for _ in range(3):
                sampler.sample(row)
    np.testing.assert_array_equal(row, ROWS["ordinary"])


@pytest.mark.parametrize("config", [GenerationConfig(), sampling(top_k=1)], ids=["greedy", "k=1"])
def test_of_equal_logits_the_first_wins(config: GenerationConfig) -> None:
    row = np.zeros(VOCAB, dtype=np.float32)
    row[[900, 1800, 2700]] = 1.0
    assert {Sampler(config, []).sample(row).token for _ in range(5)} == {900}


def test_log_probability_of_a_greedy_token_is_zero_unless_asked_for() -> None:
    row = ROWS["ordinary"]
    model = torch.from_numpy(row).double().log_softmax(-1)
    assert Sampler(GenerationConfig(), []).sample(row).log_prob == 0.0
    sampled = Sampler(GenerationConfig(logprobs=1), []).sample(row)
    assert sampled.log_prob == pytest.approx(float(model[sampled.token]), abs=1e-5)


def test_log_probability_asked_for_is_the_models_before_penalties() -> None:
    row = ROWS["ordinary"]
    model = torch.from_numpy(row).double().log_softmax(-1)
    best = int(row.argmax())
    config = GenerationConfig(logprobs=1, repetition_penalty=10.0)
    sampled = Sampler(config, [best]).sample(row)
    assert sampled.token != best
    assert sampled.log_prob == pytest.approx(float(model[sampled.token]), abs=1e-5)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_likeliest_tokens_are_the_models_before_penalties(name: str, count: int) -> None:
    row = ROWS[name]
    config = sampling(logprobs=count, repetition_penalty=1.5, top_k=3, temperature=0.3)
    sampled = Sampler(config, list(range(VOCAB))).sample(row)
    wanted = torch.log_softmax(torch.tensor(row.astype(np.float64)), 0).topk(count)
    assert [token for token, _ in sampled.top] == wanted.indices.tolist()
    assert [log_prob for _, log_prob in sampled.top] == pytest.approx(wanted.values, abs=1e-3)
    assert dict(sampled.top).get(sampled.token, sampled.log_prob) == sampled.log_prob


def test_the_likeliest_tokens_are_told_only_where_asked_for() -> None:
    row = ROWS["ordinary"]
    assert Sampler(sampling(), [1]).sample(row).top == ()
    greedy = Sampler(GenerationConfig(max_new_tokens=1, logprobs=1), [1]).sample(row)
    assert greedy.top == ((greedy.token, greedy.log_prob),)
    # A vocabulary smaller than what is asked for is told whole; of equals the first come first.
    config = GenerationConfig(max_new_tokens=1, logprobs=20)
    few = Sampler(config, [1]).sample(np.array([0, 1, 0, 1], np.float32))
    assert [token for token, _ in few.top] == [1, 3, 0, 2]


def test_log_probability_of_a_drawn_token_is_that_of_the_filtered_distribution() -> None:
    row, settings = ROWS["ordinary"], {"temperature": 0.7, "top_k": 20, "top_p": 0.9}
    sampled = Sampler(sampling(**settings), []).sample(row)
    expected = np.log(probabilities(row, settings)[sampled.token])
    assert sampled.log_prob == pytest.approx(expected, abs=1e-5)
    asked = Sampler(sampling(logprobs=1, **settings), []).sample(row)
    model = torch.from_numpy(row).double().log_softmax(-1)
    assert asked.token == sampled.token
    assert asked.log_prob == pytest.approx(float(model[asked.token]), abs=1e-5)


def greedy_tokens(row: Row, num_tokens: int, prompt: list[int], **settings: Any) -> list[int]:
    sampler = Sampler(GenerationConfig(**settings), prompt)
    return [sampler.sample(row).token for _ in range(num_tokens)]


@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_repetition_penalty_is_transformers_over_prompt_and_answer(penalty: float) -> None:
    row, prompt = ROWS["ordinary"], [5, 9, 9, int(ROWS["ordinary"].argmax())]
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    context = list(prompt)
    for token in greedy_tokens(row, 12, prompt, repetition_penalty=penalty):
        scores = processor(torch.tensor([context]), torch.from_numpy(row.copy())[None])
        assert token == int(scores.argmax())
        context.append(token)


def test_presence_and_frequency_penalties_pull_generated_tokens_towards_zero() -> None:
    row = np.array([1.0, 0.75, 0.5, -9.0], dtype=np.float32)
    assert greedy_tokens(row, 4, [0, 0], presence_penalty=0.3) == [0, 1, 0, 0]
    assert greedy_tokens(row, 4, [0, 0], frequency_penalty=0.2) == [0, 0, 1, 0]
    below = np.array([-1.0, -1.25, -9.0], dtype=np.float32)
    assert greedy_tokens(below, 3, [], presence_penalty=0.5) == [0, 0, 0]
    assert greedy_tokens(below, 3, [], presence_penalty=-0.5) == [0, 1, 0]


def test_stop_tokens_wait_for_min_new_tokens() -> None:
    row = np.array([3.0, 2.0, 1.0], dtype=np.float32)
    stop = {0, 2, 99}  # 99 is outside this vocabulary
    assert greedy_tokens(row, 3, [], min_new_tokens=2, stop_token_ids=stop) == [1, 1, 0]
    assert greedy_tokens(row, 3, [], min_new_tokens=0, stop_token_ids=stop) == [0, 0, 0]


@pytest.mark.parametrize("config", [GenerationConfig(), sampling(), sampling(top_p=0.9, top_k=9)])
@pytest.mark.parametrize(
    "row",
    [
        np.full(8, np.nan),
        np.full(8, -np.inf),
        np.array([0.0, np.nan, 1.0]),
        np.array([0.0, np.inf, 1.0]),
    ],
    ids=["all NaN", "all -inf", "one NaN", "one inf"],
)
def test_a_row_without_a_highest_logit_is_an_error(config: GenerationConfig, row: Row) -> None:
    with pytest.raises(ModelError, match="no next token can be chosen"):
        Sampler(config, []).sample(row.astype(np.float32))


def test_nothing_left_by_min_new_tokens_is_an_error() -> None:
    config = GenerationConfig(min_new_tokens=1, stop_token_ids={0, 1})
    with pytest.raises(ModelError, match="highest logit is -inf"):
        Sampler(config, []).sample(np.zeros(2, dtype=np.float32))
