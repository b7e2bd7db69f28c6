"""Sampler and stop checker against openvino_genai's own pipeline, on a real model at f32.

The logits come from the same IR, stepped through plain OpenVINO, so that nothing but the decoding
is compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai
import pytest
from numpy.typing import NDArray
from openvino_genai import GenerationConfig, GenerationFinishReason, LLMPipeline

from ov_kvcrush.pipeline.results import decoded
from ov_kvcrush.pipeline.streaming import open_stream
from ov_kvcrush.runtime.generation.request import Generation
from ov_kvcrush.runtime.generation.sampler import Multinomial
from ov_kvcrush.runtime.generation.settings import resolve_generation_config

F32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
PROMPT = "The quick brown fox jumps. She was"


class SteppedModel:
    """The stateful IR, one sequence, a step at a time."""

    def __init__(self, folder: Path) -> None:
        compiled = ov.Core().compile_model(folder / "openvino_model.xml", "CPU", F32)
        self._request = compiled.create_infer_request()
        self._num_past = 0

    def restart(self) -> None:
        self._request.reset_state()
        self._num_past = 0

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """Logits ``[vocab]`` after ``tokens``, which follow those of earlier calls."""
        past, self._num_past = self._num_past, self._num_past + len(tokens)
        self._request.infer(
            {
                "input_ids": np.array([tokens]),
                "attention_mask": np.ones((1, self._num_past), dtype=np.int64),
                "position_ids": np.arange(past, self._num_past)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
        )
        return np.array(self._request.get_tensor("logits").data[0, -1])


class Recorder(openvino_genai.StreamerBase):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[int] = []

    def write(self, tokens: list[int]) -> openvino_genai.StreamingStatus:
        self.tokens += tokens
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        pass


@pytest.fixture(scope="module")
def model(needle_f32_dir: Path) -> SteppedModel:
    return SteppedModel(needle_f32_dir)


@pytest.fixture(scope="module")
def genai(needle_f32_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_f32_dir, "CPU", **F32)


@pytest.fixture(scope="module")
def prompt_ids(genai: LLMPipeline) -> list[int]:
    return [int(id) for id in genai.get_tokenizer().encode(PROMPT).input_ids.data[0]]


def genai_result(
    genai: LLMPipeline, prompt_ids: list[int], config: GenerationConfig
) -> tuple[list[int], float, Any, list[int]]:
    """Tokens, score, finish reason and streamed tokens of openvino_genai."""
    streamer = Recorder()
    result = genai.generate(ov.Tensor(np.array([prompt_ids])), config, streamer)
    return result.tokens[0], result.scores[0], result.finish_reasons[0], streamer.tokens


def our_result(
    model: SteppedModel, genai: LLMPipeline, prompt_ids: list[int], config: GenerationConfig
) -> tuple[Generation, list[int]]:
    """The sequence and the streamed tokens of our decoding."""
    resolved = resolve_generation_config(genai.get_generation_config(), config, {})
    tokenizer = genai.get_tokenizer()
    generation = Generation(0, prompt_ids, resolved, tokenizer)
    streamer = Recorder()
    stream = open_stream(streamer, generation, tokenizer)
    model.restart()
    tokens = prompt_ids
    while generation.finish_reason is None:
        generation.take(model.logits(tokens)[None])
        stream.advance()
        tokens = generation.tokens[-1:]
    stream.end()
    return generation, streamer.tokens


GREEDY: list[dict[str, Any]] = [
    {},
    {"max_length": 30},
    {"logprobs": 1},
    {"logprobs": 5, "repetition_penalty": 1.2},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"presence_penalty": 2.0},
    {"presence_penalty": -1.0},
    {"frequency_penalty": 1.5},
    {"frequency_penalty": -0.5},
    {"repetition_penalty": 1.1, "presence_penalty": 0.7, "frequency_penalty": 0.3},
    # The tokens and texts are of the model's answer: " a little pale, and she was a little …"
    {"stop_token_ids": {4374}},
    {"stop_token_ids": {4374}, "ignore_eos": True},
    {"stop_token_ids": {4374}, "min_new_tokens": 2},
    {"stop_token_ids": {4374}, "min_new_tokens": 3},
    {"stop_token_ids": {4374}, "min_new_tokens": 9, "ignore_eos": True},
    {"stop_token_ids": {4374}, "include_stop_str_in_output": True},
]


@pytest.mark.parametrize("settings", GREEDY, ids=str)
def test_greedy_decoding_is_openvino_genais(
    model: SteppedModel, genai: LLMPipeline, prompt_ids: list[int], settings: dict[str, Any]
) -> None:
    limit = {} if "max_length" in settings else {"max_new_tokens": 24}
    config = GenerationConfig(**limit, **settings)
    generation, streamed = our_result(model, genai, prompt_ids, config)
    tokens, score, reason, their_streamed = genai_result(genai, prompt_ids, config)
    assert generation.tokens == tokens
    assert generation.finish_reason == reason
    assert streamed == their_streamed == tokens
    assert generation.score == pytest.approx(score, abs=1e-3)


def _named(settings: dict[str, Any]) -> str:
    """A name that is the same in every process, where the order of a set is not."""
    return str({**settings, "stop_strings": sorted(settings["stop_strings"])})


STOPPED: list[dict[str, Any]] = [
    {"stop_strings": {"pale"}},
    {"stop_strings": {"pale"}, "logprobs": 1},
    {"stop_strings": {"pale"}, "ignore_eos": True, "min_new_tokens": 10},
    {"stop_strings": {"pale"}, "max_new_tokens": 3},
    {"stop_strings": {"pale"}, "max_new_tokens": 4},
    {"stop_strings": {"ale, a"}},
    {"stop_strings": {"le pal"}},
    {"stop_strings": {", "}},
    {"stop_strings": {" "}},
    {"stop_strings": {"little pale, and she"}},
    {"stop_strings": {"she", "and"}},
    {"stop_strings": {"ale", "little pale"}},
    {"stop_strings": {"not there", "she was"}},
    {"stop_strings": {"not there"}},
]


@pytest.mark.parametrize("settings", STOPPED, ids=_named)
@pytest.mark.parametrize("includes", [False, True])
def test_stop_strings_cut_the_text_that_openvino_genai_gives_without_them(
    model: SteppedModel,
    genai: LLMPipeline,
    prompt_ids: list[int],
    settings: dict[str, Any],
    includes: bool,
) -> None:
    settings = {"max_new_tokens": 24, **settings}
    strings = settings["stop_strings"]
    whole = GenerationConfig(**{**settings, "stop_strings": set()})
    tokenizer = genai.get_tokenizer()
    text = tokenizer.decode(genai_result(genai, prompt_ids, whole)[0])
    config = GenerationConfig(**settings, include_stop_str_in_output=includes)
    generation, streamed = our_result(model, genai, prompt_ids, config)
    assert streamed == generation.tokens
    found = sorted((text.find(one), len(one)) for one in strings if one in text)
    if not found:
        expected, reason = text, GenerationFinishReason.LENGTH
    else:
        begin, length = found[0]
        expected, reason = text[: begin + includes * length], GenerationFinishReason.STOP
    assert decoded(tokenizer, [generation], 0.0).texts == [expected]
    assert generation.finish_reason == reason


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 3},
        {"top_k": 3, "temperature": 2.0},
        {"top_p": 0.7},
        {"min_p": 0.1},
        {"top_k": 30, "top_p": 0.8, "temperature": 1.4},
        {"top_p": 0.5, "min_p": 0.05, "temperature": 1.5},
        {"top_k": 20, "logprobs": 1},
    ],
    ids=str,
)
def test_drawn_tokens_have_the_log_probability_openvino_genai_gives_them(
    model: SteppedModel, genai: LLMPipeline, prompt_ids: list[int], settings: dict[str, Any]
) -> None:
    config = GenerationConfig(do_sample=True, max_new_tokens=16, ignore_eos=True, **settings)
    tokens, score, _, _ = genai_result(genai, prompt_ids, config)
    distribution = Multinomial(config)
    model.restart()
    ours = 0.0
    for previous, token in zip([prompt_ids, *([token] for token in tokens)], tokens, strict=False):
        row = model.logits(previous)
        ids, scores = distribution.candidates(row)
        assert token in ids
        if config.logprobs:
            ids, scores = np.arange(len(row)), row
        normalizer = np.log(np.exp(scores.astype(np.float64)).sum())
        ours += float(scores[ids == token][0]) - normalizer
    assert ours == pytest.approx(score, abs=2e-3)
