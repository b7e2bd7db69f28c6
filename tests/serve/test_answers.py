"""How replies go: in order, only for whoever waits, within their time, and told what went wrong."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.serve import answers
from ov_kvcrush.serve.app import create_app
from ov_kvcrush.serve.service import Service
from ov_kvcrush.serve.settings import ServeSettings
from tests.support.server import RunningServer, serving

ENDLESS: dict[str, Any] = {"max_tokens": 7000, "ignore_eos": True}
LONG = "The grass is green. The sky is blue. The sun is yellow. " * 250


def events(lines: Iterator[str]) -> list[Any]:
    """What a stream has said: objects, and ``[DONE]``."""
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def sent(server: RunningServer, **fields: Any) -> socket.socket:
    """A connection over which a chat has been asked for, and nothing been read."""
    body = {"model": "needle", "messages": [{"role": "user", "content": "Hello"}], **fields}
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}"
    )
    connection.sendall(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + content)
    return connection


def test_a_stream_says_what_the_whole_reply_says(server: RunningServer) -> None:
    whole = server.chat("Tell me more.", max_tokens=40, ignore_eos=True).json()
    with server.stream(
        "Tell me more.", max_tokens=40, ignore_eos=True, stream_options={"include_usage": True}
    ) as lines:
        first, *pieces, end, usage, done = events(lines)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
    assert text == whole["choices"][0]["message"]["content"]
    assert end["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == 40
    assert done == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_nobody_waits_for_ends_within_a_step(
    server: RunningServer, stream: bool
) -> None:
    ends, gone = server.service.log.ends["cancelled"], server.service.log.requests
    key = ("/v1/chat/completions", 200 if stream else 499)
    before = gone[key]
    with sent(server, stream=stream, **ENDLESS):
        server.wait_until(lambda: server.num_at_work == 1)
    server.wait_until(lambda: server.num_at_work == 0, seconds=2)
    server.wait_until(lambda: server.service.admission.num_open == 0, seconds=2)
    assert server.service.log.ends["cancelled"] == ends + 1
    assert gone[key] == before + 1
    last = server.service.log.last[0]
    assert last.end == "cancelled"
    assert 0 < last.num_generated_tokens < ENDLESS["max_tokens"]


@pytest.mark.parametrize("told_first", [False, True])
def test_a_reply_that_is_cancelled_by_who_runs_the_application_ends_as_one_that_was_left(
    pipeline: LLMPipeline, told_first: bool
) -> None:
    async def run() -> str:
        app = create_app(ServeSettings(("needle",), access_log=False), lambda: pipeline)
        service: Service = app.state.service
        body = {"model": "needle", "messages": [{"role": "user", "content": "Hello"}], **ENDLESS}
        inbox = asyncio.Queue[Any]()
        inbox.put_nowait({"type": "http.request", "body": json.dumps(body).encode()})
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope: dict[str, Any] = {"type": "http", "method": "POST"}
        scope["path"] = "/v1/chat/completions"
        scope |= {"headers": headers, "query_string": b"", "http_version": "1.1"}

        async def send(_: Any) -> None:
            raise AssertionError("it was to be cancelled")

        async with app.router.lifespan_context(app):
            assert service.loading is not None
            await service.loading
            answering = asyncio.create_task(app(scope, inbox.get, send))
            while service.admission.num_in_flight == 0:
                await asyncio.sleep(0.01)
            if told_first:
                inbox.put_nowait({"type": "http.disconnect"})
                for _ in range(6):  # until it waits for what it has cancelled
                    await asyncio.sleep(0)
            answering.cancel()
            await asyncio.wait([answering])
            assert service.admission.num_open == 0
            return service.log.last[0].end

    assert asyncio.run(run()) == "cancelled"


def test_a_prompt_that_nobody_waits_for_is_read_no_further(server: RunningServer) -> None:
    content = [{"role": "user", "content": LONG}]
    with sent(server, messages=content, max_tokens=1):
        server.wait_until(lambda: server.service.admission.num_in_flight == 1)
    server.wait_until(lambda: server.service.admission.num_open == 0, seconds=5)
    last = server.service.log.last[0]
    assert (last.end, last.num_generated_tokens) == ("cancelled", 0)


def test_a_stream_shows_that_it_lives_while_its_prompt_is_read(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_KEEP_ALIVE_SECONDS", 0.02)
    with server.stream("Once more. " + LONG, max_tokens=2) as lines:
        said = [line for line in lines if line]
    assert said[0].startswith("data: ")
    assert said.count(": keep-alive") > 1
    assert said.index(": keep-alive") < len(said) - 3
    assert said[-1] == "data: [DONE]"


def test_who_waits_too_long_for_a_token_is_told(pipeline: LLMPipeline) -> None:
    with serving(lambda: pipeline, queue_seconds=0.0) as hurried:
        refused = hurried.chat()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "queue_timeout"
        with hurried.stream() as lines:
            *_, failure, done = events(lines)
        assert failure["error"]["code"] == "queue_timeout"
        assert done == "[DONE]"
        log = hurried.service.log
        hurried.wait_until(lambda: log.rejected["queue_timeout"] == 2)
        assert log.ends == {"error": 2}


def test_who_waits_too_long_for_the_end_is_told(pipeline: LLMPipeline) -> None:
    with serving(lambda: pipeline, request_seconds=0.5) as hurried:
        refused = hurried.chat(**ENDLESS)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "request_timeout"
        assert refused.headers["x-should-retry"] == "false"
        with hurried.stream(**ENDLESS) as lines:
            _, *pieces, failure, done = events(lines)
        assert len(pieces) > 1
        assert failure["error"]["code"] == "request_timeout"
        assert done == "[DONE]"
        hurried.wait_until(lambda: hurried.num_at_work == 0, seconds=2)


def test_what_is_too_much_is_refused_and_told_when_to_come_back(pipeline: LLMPipeline) -> None:
    with serving(lambda: pipeline, max_running=1, max_waiting=1) as small:
        with sent(small, **ENDLESS), sent(small, **ENDLESS):
            small.wait_until(lambda: small.service.admission.num_in_flight == 2)
            refused = small.chat()
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
            assert refused.json()["error"]["code"] == "server_busy"
            assert small.client.get("/v1/models").status_code == 200
        small.wait_until(lambda: small.service.admission.num_in_flight == 0)
        assert small.chat(max_tokens=1).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_told_before_a_stream_begins(server: RunningServer, stream: bool) -> None:
    fields: dict[str, Any]
    for fields in ({"max_tokens": 9000}, {"messages": [{"role": "user", "content": LONG * 4}]}):
        refused = server.chat(stream=stream, **fields)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "context_length_exceeded"
    for fields in ({"model": "another"}, {"model": "Needle"}):
        assert server.chat(stream=stream, **fields).status_code == 404
    assert server.chat(stream=stream, n=9).status_code == 400


def test_a_prompt_and_the_answer_that_is_asked_for_have_to_fit(server: RunningServer) -> None:
    long = LONG * 2
    count = server.client.post(
        "/tokenize", json={"messages": [{"role": "user", "content": long}]}
    ).json()["count"]
    refused = server.chat(long, max_tokens=8192 - count + 1)
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    server.wait_until(lambda: server.num_at_work == 0, seconds=2)


def test_a_step_that_fails_is_told_and_three_in_a_row_end_the_service(
    pipeline: LLMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise MemoryError("a secret of the engine")

    with serving(lambda: pipeline) as failing:
        engine = pipeline.loaded_model.engine
        monkeypatch.setattr(engine, "step", fail)
        failed = failing.chat()
        assert failed.status_code == 500
        assert failed.json()["error"]["code"] == "engine_failed"
        assert "secret" not in failed.text
        with failing.stream() as lines:
            *_, failure, done = events(lines)
        assert failure["error"]["code"] == "engine_failed"
        assert done == "[DONE]"

        monkeypatch.undo()
        assert failing.chat(max_tokens=1).status_code == 200

        monkeypatch.setattr(engine, "step", fail)
        assert [failing.chat().status_code for _ in range(4)] == [500, 500, 500, 503]
        monkeypatch.undo()
        # It is not tried again: whoever watches it starts another one.
        assert failing.chat().json()["error"]["code"] == "engine_failed"


def test_the_last_word_of_a_stream_comes_after_its_cache_is_free(server: RunningServer) -> None:
    """Whoever goes on with a conversation at once finds what it has left."""
    conversation: list[dict[str, str]] = []
    num_before = 0
    for turn in range(3):
        conversation.append({"role": "user", "content": f"Tell me of number {turn}."})
        usage = {"include_usage": True}
        with server.stream(messages=conversation, stream_options=usage) as lines:
            _, *pieces, _, last, _ = events(lines)
        text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
        conversation.append({"role": "assistant", "content": text})
        assert last["usage"]["prompt_tokens_details"]["cached_tokens"] >= num_before
        num_before = last["usage"]["prompt_tokens"]


def test_many_answers_come_in_the_order_of_their_prompts(server: RunningServer) -> None:
    prompts = ["The sky is", "Water", "The sky is", [1, 5, 9]]
    body = {"model": "needle", "prompt": prompts, "max_tokens": 5, "temperature": 0}
    choices = server.client.post("/v1/completions", json=body).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert choices[0]["text"] == choices[2]["text"] != choices[1]["text"]


def test_nothing_is_answered_before_the_model_is_there(pipeline: LLMPipeline) -> None:
    go_on = threading.Event()

    def load() -> LLMPipeline:
        go_on.wait()
        return pipeline

    with serving(load, wait=False) as early:
        try:
            for refused in (early.chat(), early.client.get("/v1/models")):
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "loading"
        finally:
            go_on.set()
        early.wait_until(lambda: early.service.pipeline is not None)
        assert early.chat(max_tokens=1).status_code == 200
