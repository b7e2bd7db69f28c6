"""OpenAI's own client against a real server: what it gets is what ``LLMPipeline`` gives."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Annotated, Literal

import openai
import pytest
from openvino_genai import ChatHistory
from pydantic import BaseModel, Field

from ov_kvcrush import LLMPipeline
from ov_kvcrush.pipeline.results import DecodedResults
from tests.support.server import RunningServer, serving

QUESTIONS = [
    "Hello",
    "The secret code of the red door is 4711. What is the secret code of the red door?",
    "Tell me of the sea.\n\nAnd of the sky: é, 漢, 🙂.",
]


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def expected(pipeline: LLMPipeline, question: str, max_new_tokens: int) -> DecodedResults:
    history = ChatHistory([{"role": "user", "content": question}])
    results = pipeline.generate(history, do_sample=False, max_new_tokens=max_new_tokens)
    assert isinstance(results, DecodedResults)
    return results


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_greedy_answer_is_the_pipelines(
    client: openai.OpenAI, pipeline: LLMPipeline, question: str
) -> None:
    want = expected(pipeline, question, max_new_tokens=48)
    messages: list[openai.types.chat.ChatCompletionMessageParam]
    messages = [{"role": "user", "content": question}]
    whole = client.chat.completions.create(
        model="needle", messages=messages, temperature=0, max_tokens=48
    )
    assert whole.choices[0].message.content == want.texts[0]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == len(want.tokens[0])

    pieces = client.chat.completions.create(
        model="needle", messages=messages, temperature=0, max_tokens=48, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert text == want.texts[0]

    with client.chat.completions.stream(
        model="needle", messages=messages, temperature=0, max_tokens=48
    ) as stream:
        assert stream.get_final_completion().choices[0].message.content == want.texts[0]


def test_a_text_is_continued_as_the_pipeline_continues_it(
    client: openai.OpenAI, pipeline: LLMPipeline
) -> None:
    text = "The sky is"
    want = pipeline.generate(
        text, max_new_tokens=12, do_sample=False, apply_chat_template=False, logprobs=1
    )
    made = client.completions.create(
        model="needle", prompt=text, max_tokens=12, temperature=0, logprobs=1
    )
    assert made.choices[0].text == want
    assert made.choices[0].logprobs is not None
    assert made.choices[0].logprobs.tokens is not None
    assert "".join(made.choices[0].logprobs.tokens) == want


def test_log_probabilities_come_with_whole_replies_and_with_pieces(client: openai.OpenAI) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam]
    messages = [{"role": "user", "content": "Hello"}]
    whole = client.chat.completions.create(
        model="needle", messages=messages, temperature=0, logprobs=True, top_logprobs=3
    )
    assert whole.choices[0].logprobs is not None
    told = whole.choices[0].logprobs.content or []
    assert whole.usage is not None
    assert len(told) == whole.usage.completion_tokens
    for token in told:
        assert [top.logprob for top in token.top_logprobs][:1] == [token.logprob]
        assert math.isfinite(token.logprob)
    pieces = client.chat.completions.create(
        model="needle", messages=messages, temperature=0, logprobs=True, top_logprobs=3, stream=True
    )
    streamed = [
        token.token
        for chunk in pieces
        if chunk.choices[0].logprobs is not None
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == [token.token for token in told]


def test_many_ask_at_once_and_each_gets_its_own_answer(
    server: RunningServer, pipeline: LLMPipeline
) -> None:
    questions = [f"The number of box {n} is {n * 37}. What is it?" for n in range(24)]
    want = [expected(pipeline, question, max_new_tokens=8).texts[0] for question in questions]

    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
            replies = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="needle",
                        messages=[{"role": "user", "content": question}],
                        temperature=0,
                        max_tokens=8,
                    )
                    for question in questions
                )
            )
        return [reply.choices[0].message.content for reply in replies]

    assert asyncio.run(ask()) == want


def test_errors_have_the_clients_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="not served"):
        client.chat.completions.create(
            model="another", messages=[{"role": "user", "content": "Hello"}]
        )
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="needle", messages=[])
    assert wrong.value.param == "messages"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")
    assert client.models.retrieve("needle").id == "needle"
    assert [model.id for model in client.models.list()] == ["needle"]


class Colour(BaseModel):
    name: Literal["red", "green", "dark blue"]
    shade: Annotated[int, Field(ge=0, le=9)] | None


def test_the_parse_helper_gets_what_it_asks_for(
    client: openai.OpenAI, pipeline: LLMPipeline
) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam]
    messages = [{"role": "user", "content": "Hello"}]
    free = client.chat.completions.parse(
        model="needle", messages=messages, temperature=0, max_tokens=8
    )
    assert free.choices[0].message.content == expected(pipeline, "Hello", 8).texts[0]
    assert free.choices[0].message.parsed is None
    for seed in range(3):
        bound = client.chat.completions.parse(
            model="needle", messages=messages, temperature=1.5, seed=seed, response_format=Colour
        )
        assert isinstance(bound.choices[0].message.parsed, Colour)
        assert bound.choices[0].finish_reason == "stop"
    with client.chat.completions.stream(
        model="needle", messages=messages, temperature=1.5, response_format=Colour
    ) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Colour)


def test_the_client_waits_and_asks_again_when_the_server_is_busy(pipeline: LLMPipeline) -> None:
    with serving(lambda: pipeline, max_running=1, max_waiting=0) as small:

        async def ask() -> None:
            async with openai.AsyncOpenAI(base_url=f"{small.url}/v1", api_key="unused") as client:
                first = await client.chat.completions.create(
                    model="needle",
                    messages=[{"role": "user", "content": "Hello"}],
                    max_tokens=7000,
                    extra_body={"ignore_eos": True},
                    stream=True,
                )
                second = asyncio.create_task(
                    client.chat.completions.create(
                        model="needle", messages=[{"role": "user", "content": "Hello"}]
                    )
                )
                while not small.service.log.rejected["busy"]:
                    await asyncio.sleep(0.01)
                await first.close()
                assert (await second).choices[0].finish_reason == "stop"

        asyncio.run(ask())


def test_a_stream_that_fails_raises_in_the_client(pipeline: LLMPipeline) -> None:
    with (
        serving(lambda: pipeline, request_seconds=0.5) as hurried,
        openai.OpenAI(base_url=f"{hurried.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(
            model="needle",
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=7000,
            extra_body={"ignore_eos": True},
            stream=True,
        )
        with pytest.raises(openai.APIError, match="not answered within"):
            for _ in stream:
                pass
