"""What every request passes: its id, its host, its key, its size; and what is noted of it."""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.serve import access
from ov_kvcrush.serve.access import line
from ov_kvcrush.serve.request_log import RequestRecord
from tests.support.server import RunningServer, serving

LIMIT = 4096


@pytest.fixture(scope="module")
def guarded(pipeline: LLMPipeline) -> Iterator[RunningServer]:
    """A server with two keys that takes little, and pages of one other site."""
    keys = {hashlib.sha256(key.encode()).digest(): key[-5:] for key in ("of-alice", "is-bobby")}
    with serving(
        lambda: pipeline,
        key="of-alice",
        keys=keys,
        max_body_bytes=LIMIT,
        allowed_hosts=("models.example",),
        cors_origins=("http://localhost:3000",),
        access_log=True,
    ) as running:
        yield running


def error(response: Any) -> dict[str, Any]:
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return dict(body["error"])


def test_a_request_has_an_id(guarded: RunningServer) -> None:
    given = guarded.client.get("/v1/models", headers={"X-Request-Id": "mine-7"})
    assert given.headers["x-request-id"] == "mine-7"
    for unusable in ("", "two words", "x" * 65, 'a"b'):
        drawn = guarded.client.get("/v1/models", headers={"X-Request-Id": unusable})
        assert len(drawn.headers["x-request-id"]) == 32


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:99", "[::1]:8000", "Models.Example:1"])
def test_a_host_that_is_ours_is_served(guarded: RunningServer, host: str) -> None:
    assert guarded.client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[::2]", "127.1"])
def test_a_host_that_a_page_has_brought_is_not(guarded: RunningServer, host: str) -> None:
    refused = guarded.client.get("/v1/models", headers={"Host": host})
    assert refused.status_code == 421
    assert error(refused)["code"] == "wrong_host"


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Bearer", "Basic of-alice", "of-alice"])
def test_without_a_key_nothing_is_told(guarded: RunningServer, header: str) -> None:
    for path in ("/v1/models", "/v1/nowhere"):
        refused = guarded.client.get(path, headers={"Authorization": header})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert error(refused)["code"] == "invalid_api_key"
    guarded.wait_until(lambda: guarded.service.log.rejected["key"] >= 2)


def test_a_body_is_bounded_however_it_is_sent(guarded: RunningServer) -> None:
    body = b'{"model": "needle", "messages": "' + b"x" * LIMIT
    chunks = iter([body[:100], body[100:]])
    headers = {"Content-Type": "application/json"}
    for content in (body, chunks):
        refused = guarded.client.post("/v1/chat/completions", content=content, headers=headers)
        assert refused.status_code == 413
        assert error(refused)["code"] == "body_too_large"
    guarded.wait_until(lambda: guarded.service.log.rejected["body"] >= 2)
    assert guarded.chat("x" * (LIMIT - 300), max_tokens=1).status_code == 200


def test_a_client_that_leaves_while_it_sends_leaves_nothing_behind(guarded: RunningServer) -> None:
    before = guarded.service.log.requests["other", 499]
    port = int(guarded.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Authorization: Bearer of-alice\r\nContent-Length: 1000\r\n\r\n{"
        )
    guarded.wait_until(lambda: guarded.service.log.requests["other", 499] == before + 1)
    guarded.wait_until(lambda: guarded.service.admission.num_open == 0)


def test_what_is_not_there_and_what_is_not_json_are_told_in_openais_form(
    guarded: RunningServer,
) -> None:
    assert guarded.client.get("/v1/nowhere").status_code == 404
    error(guarded.client.get("/v1/nowhere"))
    assert guarded.client.get("/v1/completions").status_code == 405
    error(guarded.client.get("/v1/completions"))
    headers = {"Content-Type": "application/json"}
    for content in (b"", b"{", b"[" * 4000, b"\xff", b"1", b"null"):
        refused = guarded.client.post("/v1/completions", content=content, headers=headers)
        assert refused.status_code == 400, content
        error(refused)
    unlabelled = guarded.client.post("/v1/completions", content=b'{"model": "needle"}')
    assert unlabelled.status_code == 400


def test_pages_of_the_allowed_site_may_ask_and_others_not(guarded: RunningServer) -> None:
    asked = {"Access-Control-Request-Method": "POST"}
    ours = guarded.client.options(
        "/v1/chat/completions", headers={"Origin": "http://localhost:3000", **asked}
    )
    assert ours.headers["access-control-allow-origin"] == "http://localhost:3000"
    others = guarded.client.options(
        "/v1/chat/completions", headers={"Origin": "http://evil.example", **asked}
    )
    assert "access-control-allow-origin" not in others.headers
    refused = guarded.client.get(
        "/v1/models", headers={"Origin": "http://localhost:3000", "Authorization": ""}
    )
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_two_keys_find_nothing_of_one_another(guarded: RunningServer) -> None:
    text = "What is known about the first of all secrets? " * 12
    guarded.chat(text, max_tokens=1)
    again = guarded.chat(text, max_tokens=1).json()["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] > 0
    guarded.client.headers["Authorization"] = "Bearer is-bobby"
    try:
        other = guarded.chat(text, max_tokens=1).json()["usage"]
        assert other["prompt_tokens"] == again["prompt_tokens"]
        assert other["prompt_tokens_details"]["cached_tokens"] == 0
    finally:
        guarded.client.headers["Authorization"] = "Bearer of-alice"


def test_the_log_has_a_line_for_each_and_no_text(
    guarded: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    body = {
        "model": "needle",
        "messages": [{"role": "user", "content": "My secret is 4711."}],
        "max_tokens": 3,
        "ignore_eos": True,
    }

    def lines(name: str) -> list[str]:
        """Of one request: those of earlier ones come behind their replies, perhaps only now."""
        return [line for line in caplog.messages if f" id={name} " in line]

    with caplog.at_level(logging.INFO, "ov_kvcrush.access"):
        headers = {"X-Request-Id": "asked"}
        guarded.client.post("/v1/chat/completions", json=body, headers=headers)
        guarded.client.get("/v1/a-secret-path", headers={"X-Request-Id": "looked"})
        guarded.wait_until(lambda: bool(lines("asked") and lines("looked")))
    (first,), (second,) = lines("asked"), lines("looked")
    assert first.startswith("POST /v1/chat/completions 200 id=")
    assert " key=alice in=" in first
    assert " out=3 ttft=" in first
    assert first.endswith(" end=length")
    assert second.startswith("GET other 404 id=")
    assert "secret" not in first + second


def test_a_line_says_why_a_request_was_sent_away() -> None:
    record = RequestRecord("7", "/v1/models", status=429, seconds=0.5, rejected="busy")
    assert line("GET", record) == "GET /v1/models 429 id=7 total=0.500 rejected=busy"


def test_a_body_that_does_not_come_is_not_waited_for(
    guarded: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_BODY_SECONDS", 0.1)
    port = int(guarded.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Authorization: Bearer of-alice\r\nContent-Length: 1000\r\n\r\n{"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
