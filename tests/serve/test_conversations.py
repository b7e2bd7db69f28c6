"""Conversations over HTTP: by key, behind a named prefix, kept over a restart, and one owner's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush import LLMPipeline
from tests.support.server import RunningServer, serving

DOCUMENT = "".join(f"The number of box {n} is {n * 37}. " for n in range(60)) + "\n\n"


def reused(reply: Any) -> int:
    return int(reply["usage"]["prompt_tokens_details"]["cached_tokens"])


def told(reply: Any) -> dict[str, str]:
    return {"role": "assistant", "content": reply["choices"][0]["message"]["content"]}


def in_a_chat(pipeline: LLMPipeline, messages: list[dict[str, str]]) -> list[str]:
    """What the pipeline's own chat answers to the user's first two of ``messages``."""
    chat = pipeline.chat()
    asked = [message["content"] for message in messages if message["role"] == "user"][:2]
    said = [chat.ask(text, max_new_tokens=8, do_sample=False).texts[0] for text in asked]
    chat.close()
    return said


@pytest.mark.parametrize(
    "named",
    [
        {"headers": {"x-session-id": "monday"}},
        {"json": {"session_id": "tuesday"}},
        {"json": {"prompt_cache_key": "wednesday"}},
    ],
)
def test_a_conversation_goes_on_from_its_cache(
    server: RunningServer, pipeline: LLMPipeline, named: dict[str, dict[str, str]]
) -> None:
    messages: list[dict[str, str]] = [{"role": "user", "content": DOCUMENT + "And now?"}]
    before = len(server.service.chats or ())

    def ask() -> Any:
        body = {"model": "needle", "messages": messages, "temperature": 0, "max_tokens": 8}
        reply = server.client.post(
            "/v1/chat/completions",
            json={**body, **named.get("json", {})},
            headers=named.get("headers", {}),
        ).json()
        messages.extend([told(reply), {"role": "user", "content": "And then?"}])
        return reply

    first, second = ask(), ask()
    assert len(server.service.chats or ()) == before + 1
    assert reused(second) >= 0.9 * first["usage"]["prompt_tokens"]
    assert [told(first)["content"], told(second)["content"]] == in_a_chat(pipeline, messages)


def test_several_answers_come_without_a_session(server: RunningServer) -> None:
    before = len(server.service.chats or ())
    reply = server.chat(session_id="many", n=3, temperature=1.0, max_tokens=4).json()
    assert len(reply["choices"]) == 3
    assert len(server.service.chats or ()) == before


def test_a_session_key_is_bounded(server: RunningServer) -> None:
    body = {"model": "needle", "messages": [{"role": "user", "content": "Hello"}]}
    refused = server.client.post(
        "/v1/chat/completions", json=body, headers={"x-session-id": "x" * 513}
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "x-session-id"


def test_a_document_is_read_once_and_asked_by_name(server: RunningServer) -> None:
    made = server.client.post("/v1/prefixes", json={"text": DOCUMENT}).json()
    try:
        for box in (3, 7):
            question = f"What is the number of box {box}?"
            reply = server.chat(question, prefix=made["id"], max_tokens=8).json()
            assert reused(reply) >= 0.9 * made["num_tokens"]
        with_key = server.chat("And box 9?", prefix=made["id"], session_id="boxes").json()
        assert reused(with_key) >= 0.9 * made["num_tokens"]
    finally:
        server.client.delete(f"/v1/prefixes/{made['id']}")
    unknown = server.chat(prefix=made["id"])
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "prefix_not_found"


def test_a_conversation_goes_on_where_another_server_has_left_it(
    pipeline: LLMPipeline, tmp_path: Path
) -> None:
    messages: list[dict[str, str]] = [{"role": "user", "content": DOCUMENT + "And now?"}]
    with serving(lambda: pipeline, session_dir=tmp_path) as before:
        first = before.chat(messages=messages, session_id="moving", max_tokens=8).json()
    assert list(tmp_path.iterdir())
    messages += [told(first), {"role": "user", "content": "And then?"}]
    with serving(lambda: pipeline, session_dir=tmp_path) as after:
        second = after.chat(messages=messages, session_id="moving", max_tokens=8).json()
        assert reused(second) >= 0.9 * first["usage"]["prompt_tokens"]
    answers = [told(first)["content"], told(second)["content"]]
    assert answers == in_a_chat(pipeline, messages)
