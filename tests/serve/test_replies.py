"""Replies of a real model, in the shape that OpenAI's own types say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openvino_genai import GenerationFinishReason

from ov_kvcrush import AsyncLLMPipeline, DecodedResults
from ov_kvcrush.pipeline.deltas import Delta
from ov_kvcrush.serve.chat_reply import ChatReply
from ov_kvcrush.serve.events import event
from ov_kvcrush.serve.messages import chat_history
from ov_kvcrush.serve.replies import CompletionReply
from ov_kvcrush.serve.reply import finish_reason
from ov_kvcrush.serve.sampling import generation_settings
from ov_kvcrush.serve.schemas import ChatRequest, CompletionRequest
from ov_kvcrush.serve.settings import ServeSettings
from ov_kvcrush.serve.token_texts import TokenTexts
from tests.support.coroutines import run

SETTINGS = ServeSettings(("m",))
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def pipeline(needle_int8_dir: Path) -> Iterator[AsyncLLMPipeline]:
    pipeline = AsyncLLMPipeline(needle_int8_dir)
    yield pipeline
    pipeline.close()


@pytest.fixture(scope="module")
def texts(pipeline: AsyncLLMPipeline) -> TokenTexts:
    return TokenTexts(pipeline.get_tokenizer())


def chat(**fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "Say: 你好"}]
    fields = {"max_tokens": 12, "temperature": 0, "ignore_eos": True, **fields}
    return ChatRequest.model_validate({"model": "m", "messages": messages, **fields})


def completion(**fields: Any) -> CompletionRequest:
    fields = {"prompt": "Once upon", "max_tokens": 12, "temperature": 0, **fields}
    return CompletionRequest.model_validate({"model": "m", **fields})


def answers(
    pipeline: AsyncLLMPipeline, request: ChatRequest | CompletionRequest
) -> tuple[list[Delta], list[DecodedResults]]:
    """Of a stream its deltas too."""

    async def ask() -> tuple[list[Delta], list[DecodedResults]]:
        deltas, results = list[Delta](), list[DecodedResults]()
        if isinstance(request, ChatRequest):
            prompts: Sequence[Any] = [chat_history(request, SETTINGS)]
        else:
            prompts = request.prompts
        for prompt in prompts:
            settings = generation_settings(
                request, pipeline.get_generation_config(), SETTINGS, pipeline.context_length
            )
            answer = pipeline.generate(prompt, **settings)
            await answer.accepted()
            assert answer.num_prompt_tokens > 0
            if request.stream:
                deltas += [delta async for delta in answer.deltas()]
            results.append(await answer)
            assert answer.num_prompt_tokens == results[-1].metrics[0].num_prompt_tokens
        return deltas, results

    return run(ask())


def chunks(
    reply: ChatReply | CompletionReply, deltas: list[Delta], results: DecodedResults
) -> list[dict[str, Any]]:
    made = [chunk for delta in deltas for chunk in reply.events(delta)]
    return [*reply.first_events(), *made, *reply.last_events(results)]


def parsed(chunk: dict[str, Any]) -> Any:
    return json.loads(event(chunk).removeprefix(b"data: "))


def test_a_whole_chat_has_the_fields_in_their_order(
    pipeline: AsyncLLMPipeline, texts: TokenTexts
) -> None:
    request = chat()
    _, results = answers(pipeline, request)
    reply = ChatReply.of(request, "m", texts)
    body = reply.whole(results)
    assert ChatCompletion.model_validate(body, strict=True).id == reply.id
    assert list(body) == ["id", "object", "created", "model", "choices", "usage", "ov_kvcrush"]
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": results[0].texts[0]},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    metrics = results[0].metrics[0]
    assert body["usage"] == {
        "prompt_tokens": metrics.num_prompt_tokens,
        "completion_tokens": 12,
        "total_tokens": metrics.num_prompt_tokens + 12,
        "prompt_tokens_details": {"cached_tokens": metrics.num_reused_tokens},
    }
    costs = body["ov_kvcrush"]
    assert list(costs) == [
        *("kv_tokens", "evicted_tokens", "drafted_tokens", "accepted_tokens", "kv_bytes"),
        *("ttft_ms", "tpot_ms", "restarted"),
    ]
    assert costs["kv_bytes"] == metrics.kv_bytes > 0
    assert costs["tpot_ms"] > 0
    assert costs["ttft_ms"] > 0


def test_several_answers_are_choices(pipeline: AsyncLLMPipeline, texts: TokenTexts) -> None:
    request = chat(n=3, temperature=1.5, seed=1, ignore_eos=True)
    _, results = answers(pipeline, request)
    body = ChatReply.of(request, "m", texts).whole(results)
    choices = ChatCompletion.model_validate(body, strict=True).choices
    assert [choice.index for choice in choices] == [0, 1, 2]
    assert [choice.message.content for choice in choices] == results[0].texts
    assert body["usage"]["completion_tokens"] == 36
    assert body["usage"]["prompt_tokens"] == results[0].metrics[0].num_prompt_tokens


def test_a_greedy_answer_is_computed_once_and_repeated(
    pipeline: AsyncLLMPipeline, texts: TokenTexts
) -> None:
    request = chat(n=3)
    _, results = answers(pipeline, request)
    assert len(results[0].texts) == 1
    choices = ChatReply.of(request, "m", texts).whole(results)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in choices} == set(results[0].texts)


def test_a_stream_of_a_chat_is_the_whole_chat(
    pipeline: AsyncLLMPipeline, texts: TokenTexts
) -> None:
    request = chat(**STREAM, logprobs=True, top_logprobs=2)
    deltas, results = answers(pipeline, request)
    reply = ChatReply.of(request, "m", texts)
    made = [parsed(chunk) for chunk in chunks(reply, deltas, results[0])]
    for chunk in made:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert {(c["id"], c["object"], c["created"], c["model"]) for c in made} == {
        (reply.id, "chat.completion.chunk", reply.created, "m")
    }
    *pieces, usage = made
    choices = [chunk["choices"][0] for chunk in pieces]
    first, *middle, last = choices
    role = {"role": "assistant", "content": ""}
    assert first == {"index": 0, "delta": role, "finish_reason": None, "logprobs": None}
    assert last == {"index": 0, "delta": {}, "finish_reason": "length", "logprobs": None}
    assert all(chunk["usage"] is None for chunk in pieces)
    assert usage["choices"] == []
    whole = reply.whole(results)
    assert (usage["usage"], usage["ov_kvcrush"]) == (whole["usage"], whole["ov_kvcrush"])
    choice = whole["choices"][0]
    assert "".join(one["delta"]["content"] for one in middle) == choice["message"]["content"]
    told = [entry for one in middle if one["logprobs"] for entry in one["logprobs"]["content"]]
    assert told == choice["logprobs"]["content"]
    assert len(told) == 12


def test_usage_comes_where_it_is_asked_for(pipeline: AsyncLLMPipeline, texts: TokenTexts) -> None:
    request = chat(stream=True)
    deltas, results = answers(pipeline, request)
    made = chunks(ChatReply.of(request, "m", texts), deltas, results[0])
    assert all(len(chunk["choices"]) == 1 for chunk in made)
    assert all("usage" not in chunk for chunk in made)


def test_tokens_without_text_are_shown_where_their_probability_is(texts: TokenTexts) -> None:
    silent = Delta("", (2,), (-0.5,), (((2, -0.5),),))
    assert ChatReply.of(chat(), "m", texts).events(silent) == []
    (chunk,) = ChatReply.of(chat(logprobs=True), "m", texts).events(silent)
    assert chunk["choices"][0]["delta"] == {"content": ""}
    assert chunk["choices"][0]["logprobs"]["content"][0]["token"] == "<|eos|>"


def test_completions_are_choices_in_the_order_of_their_prompts(
    pipeline: AsyncLLMPipeline, texts: TokenTexts
) -> None:
    request = completion(prompt=["Once upon", [5, 6, 7]], logprobs=2)
    _, results = answers(pipeline, request)
    body = CompletionReply.of(request, "m", texts).whole(results)
    assert Completion.model_validate(body, strict=True).object == "text_completion"
    assert [choice["text"] for choice in body["choices"]] == [one.texts[0] for one in results]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    num_prompt_tokens = sum(one.metrics[0].num_prompt_tokens for one in results)
    assert body["usage"]["prompt_tokens"] == num_prompt_tokens
    for choice in body["choices"]:
        told = choice["logprobs"]
        for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
            assert choice["text"].startswith(token, offset) or not token.isascii()


def test_a_stream_of_a_completion_is_the_whole_completion(
    pipeline: AsyncLLMPipeline, texts: TokenTexts
) -> None:
    request = completion(**STREAM, logprobs=1)
    deltas, results = answers(pipeline, request)
    reply = CompletionReply.of(request, "m", texts)
    made = [parsed(chunk) for chunk in chunks(reply, deltas, results[0])]
    *pieces, last, usage = made
    for chunk in (last, usage):
        Completion.model_validate(chunk, strict=True)
    for chunk in pieces:  # OpenAI sends null as well there, which only its type does not know
        assert chunk["choices"][0]["finish_reason"] is None
        ended = {**chunk["choices"][0], "finish_reason": "stop"}
        Completion.model_validate({**chunk, "choices": [ended]}, strict=True)
    assert last["choices"][0] == {
        "index": 0,
        "text": "",
        "finish_reason": "length",
        "logprobs": None,
    }
    whole = CompletionReply.of(request, "m", texts).whole(results)["choices"][0]
    assert "".join(chunk["choices"][0]["text"] for chunk in pieces) == whole["text"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        told = [
            one
            for chunk in pieces
            if chunk["choices"][0]["logprobs"]
            for one in chunk["choices"][0]["logprobs"][name]
        ]
        assert told == whole["logprobs"][name]


def test_every_reply_has_an_id_of_its_own(texts: TokenTexts) -> None:
    ids = {ChatReply.of(chat(), "m", texts).id for _ in range(4)}
    assert len(ids) == 4
    assert {len(one) for one in ids} == {len("chatcmpl-") + 32}
    assert CompletionReply.of(completion(), "m", texts).id.startswith("cmpl-")


def test_an_answer_ends_with_a_word_that_clients_know() -> None:
    words = {name: finish_reason(reason) for name, reason in _reasons().items()}
    assert words == {"NONE": "length", "STOP": "stop", "LENGTH": "length", "TOOL_CALL": "length"}


def _reasons() -> dict[str, GenerationFinishReason]:
    return dict(GenerationFinishReason.__members__)
