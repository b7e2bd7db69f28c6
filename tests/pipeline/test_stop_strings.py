"""Stop strings in real answers: every way to ask gives the text before the first of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openvino_genai as genai
import pytest
from openvino_genai import ChatHistory, GenerationFinishReason

from ov_kvcrush import AsyncLLMPipeline, KVCacheConfig, LLMPipeline
from tests.support.answers import decoded, encoded
from tests.support.coroutines import run
from tests.support.engines import F32
from tests.support.pipelines import BUDGET, TEXT, used_bytes

QUESTION: dict[str, Any] = {"max_new_tokens": 40, "ignore_eos": True}
RAW: dict[str, Any] = {**QUESTION, "apply_chat_template": False}
PROMPT = "The quick brown fox jumps. She was"


@pytest.fixture(scope="module")
def genai_engine(needle_f32_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_f32_dir, "CPU", F32, engine="genai")


@pytest.fixture(scope="module", params=["paged", "genai"])
def pipe(
    request: pytest.FixtureRequest, ours: LLMPipeline, genai_engine: LLMPipeline
) -> LLMPipeline:
    return ours if request.param == "paged" else genai_engine


@pytest.fixture(scope="module")
def answer(ours: LLMPipeline) -> str:
    return str(ours.generate(PROMPT, **RAW))


@pytest.fixture(scope="module")
def substrings(answer: str) -> list[str]:
    """Of any length, from anywhere in the answer."""
    draw = random.Random(3)
    begins = [draw.randrange(len(answer)) for _ in range(40)]
    return [answer[begin : begin + draw.randint(1, 20)] for begin in begins]


def test_every_substring_ends_the_text_where_it_first_begins(
    ours: LLMPipeline, answer: str, substrings: list[str]
) -> None:
    for string in substrings:
        pieces: list[str] = []
        text = ours.generate(PROMPT, streamer=pieces.append, stop_strings={string}, **RAW)
        assert text == "".join(pieces) == answer[: answer.index(string)]
    assert used_bytes(ours) == 0


def test_or_where_it_ends_where_it_is_included(
    ours: LLMPipeline, answer: str, substrings: list[str]
) -> None:
    settings: dict[str, Any] = {**RAW, "include_stop_str_in_output": True}
    for string in substrings[:10]:
        pieces: list[str] = []
        text = ours.generate(PROMPT, streamer=pieces.append, stop_strings={string}, **settings)
        assert text == "".join(pieces) == answer[: answer.index(string) + len(string)]


def test_both_engines_give_the_same(
    ours: LLMPipeline, genai_engine: LLMPipeline, answer: str, substrings: list[str]
) -> None:
    for n, string in enumerate(substrings[:12]):
        settings = {**RAW, "stop_strings": {string, "not there"}}
        settings["include_stop_str_in_output"] = n % 3 == 0
        mine, theirs = (decoded(p.generate([PROMPT], **settings)) for p in (ours, genai_engine))
        assert theirs.texts == mine.texts
        assert theirs.tokens == mine.tokens
        assert theirs.finish_reasons == mine.finish_reasons == [GenerationFinishReason.STOP]
    metrics = genai_engine.get_metrics()["sequences"]
    assert (metrics["running"], metrics["waiting"]) == (0, 0)


def test_however_it_is_asked_for(pipe: LLMPipeline, answer: str) -> None:
    string = answer[31:36]
    stop: dict[str, Any] = {**RAW, "stop_strings": {string}}
    cut = answer[: answer.index(string)]
    assert decoded(pipe.generate([PROMPT, PROMPT], **stop)).texts == [cut, cut]
    several = {**stop, "do_sample": True, "top_k": 1, "num_return_sequences": 2}
    assert decoded(pipe.generate(PROMPT, **several)).texts == [cut, cut]
    ids = pipe.get_tokenizer().encode(PROMPT, add_special_tokens=True).input_ids
    (tokens,) = encoded(pipe.generate(ids, **stop)).tokens
    decode = pipe.get_tokenizer().decode
    # Tokens are whole: as few as hold the text.
    assert decode(tokens).startswith(cut)
    assert len(decode(tokens[:-1])) < len(cut)

    history = ChatHistory([{"role": "user", "content": TEXT}])
    whole = decoded(pipe.generate(history, **QUESTION)).texts[0]
    string = whole[11:14]
    stop = {**QUESTION, "stop_strings": string}
    assert decoded(pipe.generate(history, **stop)).texts == [whole[: whole.index(string)]]


def test_a_streamer_object_gets_whole_tokens(pipe: LLMPipeline, answer: str) -> None:
    class Collector(genai.StreamerBase):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.tokens: list[int] = []

        def write(self, tokens: list[int]) -> genai.StreamingStatus:
            self.tokens += tokens
            return genai.StreamingStatus.RUNNING

        def end(self) -> None:
            pass

    for begin in (20, 33, 34, 35):
        collector = Collector()
        stop = {**RAW, "stop_strings": {answer[begin : begin + 4]}}
        assert pipe.generate(PROMPT, streamer=collector, **stop)
        results = decoded(pipe.generate([PROMPT], **stop))
        assert collector.tokens == results.tokens[0]
        assert len(results.log_probs[0]) == len(collector.tokens)


@pytest.fixture
def asynchronous(pipe: LLMPipeline) -> Iterator[AsyncLLMPipeline]:
    pipeline = AsyncLLMPipeline(pipe)
    yield pipeline
    pipeline.close()


def test_the_asynchronous_pipeline_too(
    asynchronous: AsyncLLMPipeline, answer: str, substrings: list[str]
) -> None:
    async def ask(string: str) -> None:
        asked = asynchronous.generate(PROMPT, stop_strings={string}, **RAW)
        deltas = [delta async for delta in asked.deltas()]
        results = await asked
        assert results.texts == [answer[: answer.index(string)]]
        assert "".join(delta.text for delta in deltas) == results.texts[0]
        assert [token for delta in deltas for token in delta.token_ids] == results.tokens[0]
        assert results.finish_reasons == [GenerationFinishReason.STOP]

    async def serve() -> None:
        await asyncio.gather(*map(ask, substrings[:12]))

    run(serve())


# ------------------------------------------------------------------ chats

ASKED: dict[str, Any] = {"max_new_tokens": 40}
STRING, CUT = "fraid of", " I wasn't a little a"  # of the answer to "Why?"


@pytest.mark.parametrize(
    ("question", "string", "cut", "config"),
    [
        ("Why?", STRING, CUT, KVCacheConfig()),
        ("Who are you? " * 25 + "Why?", "ou? Who a", " are y", BUDGET),
    ],
    ids=["all is kept", "evicting"],
)
def test_a_chat_keeps_the_cut_text_and_goes_on_from_its_cache(
    needle_f32_dir: Path, question: str, string: str, cut: str, config: KVCacheConfig
) -> None:
    pipe = LLMPipeline(needle_f32_dir, "CPU", F32, kv_cache_config=config)
    chat = pipe.chat()
    first = chat.ask(question, **ASKED, stop_strings={string})
    assert bool(first.metrics[0].num_evicted_tokens) == config.evicts
    assert first.texts == [cut] == [chat.messages[-1]["content"]]
    # What is cached reads like the beginning of the next prompt, up to the token that was cut.
    tokenizer, cached = pipe.get_tokenizer(), chat.session.token_ids
    prompt = tokenizer.apply_chat_template(ChatHistory(chat.messages), add_generation_prompt=True)
    spelled = tokenizer.decode(cached, skip_special_tokens=False)
    assert prompt.startswith(spelled)
    assert spelled.endswith(cut[: cut.rindex(" ")])
    second = chat.ask("And then?", max_new_tokens=4)
    assert second.metrics[0].num_reused_tokens == len(cached)
    assert not second.metrics[0].restarted
    chat.close()
    assert used_bytes(pipe) == 0


def test_a_history_whose_answer_was_cut_finds_its_cache(ours: LLMPipeline) -> None:
    history = ChatHistory([{"role": "user", "content": "Why?"}])
    first = decoded(ours.generate(history, **ASKED, stop_strings={STRING}))
    assert first.texts == [CUT]
    history.append({"role": "assistant", "content": CUT})
    history.append({"role": "user", "content": "And then?"})
    second = decoded(ours.generate(history, max_new_tokens=4)).metrics[0]
    whole = len(first.tokens[0]) - 1
    assert second.num_reused_tokens == first.metrics[0].num_prompt_tokens + whole
    assert not second.restarted


def test_a_chat_whose_answer_was_cut_is_answered_like_one_that_reads_it_anew(
    ours: LLMPipeline,
) -> None:
    chat, anew = ours.chat(), ours.chat()
    chat.ask("Why?", **ASKED, stop_strings={STRING})
    anew.replace_messages(chat.messages)
    assert chat.ask("And then?", **QUESTION).texts == anew.ask("And then?", **QUESTION).texts
    chat.close()
    anew.close()
