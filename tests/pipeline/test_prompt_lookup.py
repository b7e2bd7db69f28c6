"""Prompt lookup as programs for openvino_genai ask for it, and as servers and shells do."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openvino_genai
import pytest

import ov_kvcrush
from ov_kvcrush import AsyncLLMPipeline, KVCacheConfig, LLMPipeline
from ov_kvcrush.cli import run
from ov_kvcrush.errors import ConfigError, UnsupportedError
from ov_kvcrush.runtime.generation.drafter import DEFAULT_DRAFTS
from tests.support.drafts import guesses
from tests.support.engines import F32
from tests.support.pipelines import TEXT

MODULES = [pytest.param(openvino_genai, id="theirs"), pytest.param(ov_kvcrush, id="ours")]


def look_up_prompts(genai: Any, folder: Path) -> str:
    """A program of openvino_genai's samples."""
    pipe = genai.LLMPipeline(folder, "CPU", prompt_lookup=True, **F32)
    config = genai.GenerationConfig()
    config.max_new_tokens = 30
    config.num_assistant_tokens = 5
    config.max_ngram_size = 3
    return str(pipe.generate(TEXT, config))


def test_a_program_of_openvino_genai_gets_the_same_answer(needle_f32_dir: Path) -> None:
    ours = look_up_prompts(ov_kvcrush, needle_f32_dir)
    assert ours == look_up_prompts(openvino_genai, needle_f32_dir)


@pytest.mark.parametrize(
    ("given", "count"),
    [(True, DEFAULT_DRAFTS), ("true", DEFAULT_DRAFTS), (4, 4), ("4", 4), (False, 0), (0, 0)],
)
def test_it_is_on_off_or_a_number_of_tokens(needle_int8_dir: Path, given: Any, count: int) -> None:
    pipe = LLMPipeline(needle_int8_dir, config={"prompt_lookup": given})
    assert pipe.describe().to_dict()["prompt_lookup"] == count


def test_streams_have_every_token_of_a_step(needle_f32_dir: Path) -> None:
    pipe = LLMPipeline(needle_f32_dir, prompt_lookup=True, config=F32)
    wanted = pipe.generate(TEXT, max_new_tokens=30, ignore_eos=True, apply_chat_template=False)
    tokens = pipe.get_tokenizer().encode(TEXT + str(wanted)).input_ids.data[0].tolist()
    pieces: list[str] = []
    with guesses([tokens], share_true=1.0):
        answer = pipe.generate(
            TEXT, streamer=pieces.append, max_new_tokens=30, ignore_eos=True,
            apply_chat_template=False,
        )  # fmt: skip
    assert answer == wanted
    assert "".join(pieces) == wanted
    (metrics,) = pipe.loaded_model.last
    raw = pipe.get_metrics()["last"]
    assert metrics.metrics.num_drafted_tokens > 0
    assert raw


def test_an_async_pipeline_drafts_too(needle_f32_dir: Path) -> None:
    async def answers() -> list[str]:
        async with AsyncLLMPipeline(needle_f32_dir, prompt_lookup=True, config=F32) as pipe:
            asked = [pipe.generate(TEXT, max_new_tokens=20) for _ in range(2)]
            results = await asyncio.gather(*asked)
            assert pipe.describe().to_dict()["prompt_lookup"] == DEFAULT_DRAFTS
            return [result.texts[0] for result in results]

    plain = LLMPipeline(needle_f32_dir, config=F32).generate(TEXT, max_new_tokens=20)
    assert asyncio.run(answers()) == [plain, plain]


def test_the_genai_engine_looks_prompts_up_where_nothing_is_evicted(needle_f32_dir: Path) -> None:
    pipe = LLMPipeline(needle_f32_dir, engine="genai", prompt_lookup=4, config=F32)
    assert pipe.describe().to_dict()["prompt_lookup"] == 4
    plain = LLMPipeline(needle_f32_dir, config=F32).generate(TEXT, max_new_tokens=30)
    assert pipe.generate(TEXT, max_new_tokens=30) == plain
    with pytest.raises(UnsupportedError, match="gives one answer, and num_return_sequences is 2"):
        pipe.generate(TEXT, max_new_tokens=3, do_sample=True, num_return_sequences=2)
    assert pipe.generate(TEXT, max_new_tokens=30) == plain


def test_the_genai_engine_refuses_it_beside_eviction(needle_f32_dir: Path) -> None:
    config = KVCacheConfig(max_cache_size=256, pool_size=2048)
    with pytest.raises(UnsupportedError, match="other text where its cache is cut"):
        LLMPipeline(needle_f32_dir, engine="genai", kv_cache_config=config, prompt_lookup=True)


@pytest.mark.parametrize("engine", ["paged", "genai"])
def test_settings_of_drafts_are_refused_without_it(needle_f32_dir: Path, engine: str) -> None:
    pipe = LLMPipeline(needle_f32_dir, engine=engine)
    with pytest.raises(UnsupportedError, match="loaded without prompt lookup"):
        pipe.generate(TEXT, max_new_tokens=3, num_assistant_tokens=5)
    assert pipe.generate(TEXT, max_new_tokens=3)


def test_wrong_numbers_of_tokens_are_refused(needle_f32_dir: Path) -> None:
    pipe = LLMPipeline(needle_f32_dir, prompt_lookup=True)
    for value in (-1, 2.5, True, "five"):
        with pytest.raises(ConfigError, match=r"num_assistant_tokens is .* takes a whole number"):
            pipe.generate(TEXT, max_new_tokens=3, num_assistant_tokens=value)


def test_the_shell_tells_what_was_drafted(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--json", "--prompt", TEXT, "--max-new-tokens", "40", "--prompt-lookup", "6"]
    assert run(["chat", str(needle_int8_dir), *arguments, "--ignore-eos"]) == 0
    turn = json.loads(capsys.readouterr().out)
    assert turn["config"]["prompt_lookup"] == 6
    metrics = turn["metrics"]
    assert metrics["num_accepted_tokens"] <= metrics["num_drafted_tokens"]
