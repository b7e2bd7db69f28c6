"""How a server ends: told once it breaks nothing off, told twice it goes; and where it listens."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.serve.server import base_url, listen
from tests.support.server_process import ServerProcess, server_process

BUDGET = ("--max-cache-size", "256")


@pytest.fixture
def server(needle_int8_dir: Path) -> Iterator[ServerProcess]:
    with server_process(
        needle_int8_dir, *BUDGET, "--drain-timeout", "2", "--model-name", "needle"
    ) as process:
        process.wait_until_ready()
        yield process


def chat(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"model": "needle", "messages": messages, "ignore_eos": True, **fields}


def read_stream(server: ServerProcess, begun: Any = None, **fields: Any) -> list[Any]:
    """All that a stream says; its body has to be whole."""
    body, said = chat(stream=True, **fields), list[Any]()
    with httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as got:
        for line in got.iter_lines():
            if line.startswith("data: {"):
                said.append(json.loads(line.removeprefix("data: ")))
                if begun is not None and not begun.done() and len(said) > 2:
                    begun.set_result(None)
            elif line:
                said.append(line)
    return said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_is_being_answered_ends_and_then_the_server(
    server: ServerProcess, number: signal.Signals
) -> None:
    url = f"{server.url}/v1/chat/completions"
    with ThreadPoolExecutor() as threads:
        begun = [Future[None](), Future[None]()]
        short = threads.submit(read_stream, server, begun[0], max_tokens=60)
        endless = threads.submit(read_stream, server, begun[1], max_tokens=7000)
        for future in begun:
            future.result(30)
        whole = threads.submit(httpx2.post, url, json=chat(max_tokens=7000), timeout=60)
        with httpx2.Client() as client:  # a connection that is open already
            assert client.get(f"{server.url}/v1/models").status_code == 200
            server.tell(number)
            server.wait_until_ending()
            late = client.post(url, json=chat())
        assert late.status_code == 503
        assert late.json()["error"]["code"] == "shutting_down"
        assert late.headers["x-should-retry"] == "false"

        assert short.result()[-2]["choices"][0]["finish_reason"] == "length"
        *_, failure, done = endless.result()
        assert failure["error"]["code"] == "shutting_down"
        assert done == "data: [DONE]"
        assert whole.result().status_code == 503
        assert whole.result().json()["error"]["code"] == "shutting_down"
    assert server.end() == 0
    assert "Traceback" not in "".join(server.said)


def test_a_second_signal_ends_it_at_once(needle_int8_dir: Path) -> None:
    with server_process(
        needle_int8_dir, *BUDGET, "--drain-timeout", "300", "--model-name", "needle"
    ) as server:
        server.wait_until_ready()
        with httpx2.stream(
            "POST",
            f"{server.url}/v1/chat/completions",
            json=chat(stream=True, max_tokens=7000),
            timeout=60,
        ) as got:
            next(got.iter_lines())
            server.tell(signal.SIGTERM)
            server.wait_until_ending()
            server.tell(signal.SIGTERM)
            assert server.end(5) == 128 + signal.SIGTERM


def test_a_server_that_still_loads_does_not_finish_that(needle_int8_dir: Path) -> None:
    with server_process(needle_int8_dir, *BUDGET) as server:
        server.tell(signal.SIGTERM)
        assert server.end() == 0
    assert not any("ready" in line for line in server.said)


def test_an_address_that_is_taken_or_is_not_ours_is_told() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert base_url("127.0.0.1", taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConfigError, match=f"port {port}") as refused:
            listen("127.0.0.1", port)
        assert "--port" in refused.value.hint
    for host in ("203.0.113.1", "no-such-host.invalid"):
        with pytest.raises(ConfigError, match="cannot listen"):
            listen(host, 0)


def test_localhost_and_addresses_of_both_kinds_are_listened_at() -> None:
    with listen("localhost", 0) as listener:
        assert listener.family == socket.AF_INET
    if socket.has_ipv6:
        try:
            listener = listen("::1", 0)
        except ConfigError:
            return  # this machine has none
        with listener:
            assert base_url("::1", listener).startswith("http://[::1]:")


def test_connections_send_each_piece_at_once() -> None:
    with listen("127.0.0.1", 0) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
        with client, connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
