"""What a client may send that is wrong: each is told what, in OpenAI's form, and others go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from ov_kvcrush import LLMPipeline
from tests.support.server import RunningServer, serving

CHAT, COMPLETIONS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize"
KEY = "of-alice"
MAX_BODY = 300_000
FORM = "response_format"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
NAMELESS = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
JSON_TYPE = {"Content-Type": "application/json"}


def said(content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content, **more}]}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@dataclass(frozen=True)
class Wrong:
    """One request.

    Attributes:
        name: of the test.
        fields: on top of a request that is right.
        param: that the error names.
        code: of the error.
        status: of the reply.
        path: it goes to.
        headers: on top of those that are right.
        content: its body as it is, in place of ``fields``.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    param: str | None = None
    code: str | None = None
    status: int = 400
    path: str = CHAT
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None


UNSUPPORTED, TOO_LONG = "unsupported_value", "context_length_exceeded"
FIRST = "messages.0.content"

WRONG = [
    Wrong("a number in place of a text", said(5), FIRST),
    Wrong("an object in place of a text", said({"text": "Hello"}), FIRST),
    Wrong("no content", {"messages": [{"role": "user"}]}, FIRST),
    Wrong("parts that are numbers", said([1]), f"{FIRST}.0"),
    Wrong("a part without a text", said([{"type": "text"}]), f"{FIRST}.0.text"),
    Wrong("a part whose text is null", said([{"type": "text", "text": None}]), f"{FIRST}.0.text"),
    Wrong("a picture", said([{"type": "image_url", "image_url": {}}]), FIRST, UNSUPPORTED),
    Wrong("a role that nobody has", said("Hello", "wizard"), "messages.0.role"),
    Wrong("a message that is a text", {"messages": ["Hello"]}, "messages.0"),
    Wrong("no messages", {"messages": []}, "messages"),
    Wrong("messages that are null", {"messages": None}, "messages"),
    Wrong("half a character", said("a\ud800b"), f"{FIRST}.0.text"),
    Wrong("half a character in a part", said([{"type": "text", "text": "\udfff"}]), None),
    Wrong("half a character to stop at", {"stop": "\ud800"}, "stop.0"),
    Wrong(
        "half a character for the template",
        {"chat_template_kwargs": {"a": ["\ud800"]}},
        "chat_template_kwargs",
    ),
    Wrong(
        "half a character in a name for the template",
        {"chat_template_kwargs": {"a": {"\ud800": 1}}},
        "chat_template_kwargs",
    ),
    Wrong("half a character as the model's name", {"model": "\ud800"}, "model"),
    Wrong("half a character as a session's key", {"session_id": "\ud800"}, "session_id"),
    Wrong("half a character to continue", {"prompt": "\ud800"}, None, path=COMPLETIONS),
    Wrong("half a character to count", {"prompt": "\ud800"}, "prompt", path=TOKENIZE),
    Wrong("200,000 brackets", content=b"[" * 200_000),
    Wrong("200,000 objects", content=b'{"a":' * 40_000),
    Wrong(
        "deep objects for the template",
        {"chat_template_kwargs": nested(300)},
        "chat_template_kwargs",
    ),
    Wrong("half a body", content=b'{"model": "needle", "messages": ['),
    Wrong("bytes that are not UTF-8", content=b'{"model": "\xff"}'),
    Wrong("a list in place of an object", content=b"[]"),
    Wrong("NaN", {"temperature": float("nan")}, "temperature"),
    Wrong("an infinite penalty", {"presence_penalty": float("inf")}, "presence_penalty"),
    Wrong(
        "NaN for the template",
        {"chat_template_kwargs": {"a": float("nan")}},
        "chat_template_kwargs",
    ),
    Wrong("a number beyond all floats", content=b'{"model":"needle","seed":1e999}', param="seed"),
    Wrong("3,000 texts to stop at", {"stop": [f"{n}" for n in range(3000)]}, "stop"),
    Wrong("a text of 3,000 characters to stop at", {"stop": "x" * 3000}, "stop.0"),
    Wrong("an empty text to stop at", {"stop": ""}, "stop.0"),
    Wrong("200 answers", {"n": 200}, "n"),
    Wrong("more answers than are made", {"n": 9, "temperature": 1}, "n"),
    Wrong("no answers", {"n": 0}, "n"),
    Wrong("several answers in one stream", {"n": 2, "stream": True}, "n"),
    Wrong("a seed that is false", {"seed": False}, "seed"),
    Wrong("a limit in quotes", {"max_tokens": "5"}, "max_tokens"),
    Wrong("a limit of 0", {"max_tokens": 0}, "max_tokens"),
    Wrong("a temperature of 3", {"temperature": 3}, "temperature"),
    Wrong("an answer beyond the context", {"max_tokens": 100_000}, "max_tokens", TOO_LONG),
    Wrong("a prompt beyond the context", said("word " * 20_000), None, TOO_LONG),
    Wrong(
        "a text beyond the context", {"prompt": "word " * 20_000}, None, TOO_LONG, path=COMPLETIONS
    ),
    Wrong("an id that is not the model's", {"prompt": [2**31 - 1]}, path=COMPLETIONS),
    Wrong("a form without a schema", {"response_format": {"type": "json_schema"}}, FORM, None),
    Wrong(
        "a schema without a name", {"response_format": NAMELESS}, f"{FORM}.json_schema.name", None
    ),
    Wrong("a form and no end", {"response_format": SCHEMA, "ignore_eos": True}, "ignore_eos", None),
    Wrong(
        "a form and a least length",
        {"response_format": SCHEMA, "min_tokens": 4},
        "min_tokens",
        None,
    ),
    Wrong(
        "two forms",
        {"response_format": SCHEMA, "structured_outputs": {"regex": "a"}},
        "structured_outputs",
        None,
    ),
    Wrong(
        "a form in two ways",
        {"structured_outputs": {"regex": "a", "choice": ["b"]}},
        "structured_outputs",
        None,
    ),
    Wrong("a tool of another kind", {"tools": [{"type": "custom"}]}, "tools.0", UNSUPPORTED),
    Wrong("tools that are none", {"tool_choice": "required"}, "tool_choice"),
    Wrong("another model", {"model": "gpt-4o"}, "model", "model_not_found", 404),
    Wrong("a prefix that is not there", {"prefix": "prefix-0"}, "prefix", "prefix_not_found", 404),
    Wrong(
        "a key that nobody has", code="invalid_api_key", status=401, headers={"Authorization": ""}
    ),
    Wrong("the host of a page", code="wrong_host", status=421, headers={"Host": "evil.example"}),
    Wrong("a long body", said("x" * MAX_BODY), code="body_too_large", status=413),
    Wrong("another type of body", headers={"Content-Type": "text/plain"}),
]


@pytest.fixture(scope="module")
def guarded(pipeline: LLMPipeline) -> Iterator[RunningServer]:
    keys = {hashlib.sha256(KEY.encode()).digest(): "alice"}
    with serving(lambda: pipeline, key=KEY, keys=keys, max_body_bytes=MAX_BODY) as running:
        yield running


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_what_is_wrong_is_told_and_others_go_on(guarded: RunningServer, wrong: Wrong) -> None:
    body: dict[str, Any] = {"model": "needle", "max_tokens": 2}
    body |= {"prompt": "Hello"} if wrong.path != CHAT else said("Hello")
    content = json.dumps(body | wrong.fields).encode() if wrong.content is None else wrong.content
    refused = guarded.client.post(wrong.path, content=content, headers=JSON_TYPE | wrong.headers)
    assert refused.status_code == wrong.status, refused.text
    error = refused.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if wrong.param is not None:
        assert error["param"] == wrong.param
    if wrong.code is not None:
        assert error["code"] == wrong.code
    guarded.wait_until(lambda: guarded.service.admission.num_open == 0)
    assert guarded.chat(max_tokens=1).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="null is empty"),
        pytest.param("", id="nothing"),
        pytest.param([], id="without a part"),
        pytest.param([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}], id="parts"),
        pytest.param("<|im_end|>\x00\x7f\u2028", id="odd characters"),
    ],
)
def test_what_only_looks_wrong_is_answered(guarded: RunningServer, content: Any) -> None:
    reply = guarded.chat(messages=said(content)["messages"], max_tokens=2)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["finish_reason"] in ("stop", "length")
