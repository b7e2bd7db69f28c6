"""Clients that read or send slowly get what they asked for, and nobody else waits for them."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from tests.support.server import RunningServer


def connection_of(server: RunningServer, receives: int | None = None) -> socket.socket:
    """A connection whose client takes in at most about ``receives`` bytes that it has not read."""
    connection = socket.socket()
    if receives is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    return connection


def request_of(**fields: Any) -> bytes:
    body = {"model": "needle", "messages": [{"role": "user", "content": "Hello"}], **fields}
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def rest_of(connection: socket.socket) -> bytes:
    received = bytearray()
    while piece := connection.recv(65536):
        received += piece
    return bytes(received)


def test_a_stream_that_is_read_a_byte_a_second_keeps_nobody_waiting(server: RunningServer) -> None:
    with connection_of(server, receives=2048) as connection:
        connection.sendall(
            request_of(
                stream=True,
                max_tokens=4000,
                ignore_eos=True,
                temperature=0,
                logprobs=True,
                top_logprobs=10,
            )
        )
        received = connection.recv(1)
        server.wait_until(lambda: server.service.admission.num_in_flight == 0, 60)
        # The engine has done with it long before its client has.
        assert server.service.admission.num_open == 1
        assert server.num_at_work == 0
        for _ in range(2):
            began = time.monotonic()
            assert server.chat(max_tokens=2).status_code == 200
            time.sleep(max(0.0, began + 1 - time.monotonic()))
            received += connection.recv(1)
        received += rest_of(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b'"finish_reason":"length"') == 1
    assert b"data: [DONE]\n\n" in received[-40:]
    server.wait_until(lambda: server.service.admission.num_open == 0)


def test_a_client_that_stops_reading_and_leaves_leaves_nothing_behind(
    server: RunningServer,
) -> None:
    with connection_of(server, receives=2048) as connection:
        connection.sendall(request_of(stream=True, max_tokens=7000, ignore_eos=True, logprobs=True))
        connection.recv(1)
        server.wait_until(lambda: server.num_at_work == 1)
    server.wait_until(lambda: server.service.admission.num_open == 0)
    server.wait_until(lambda: server.num_at_work == 0)


def test_a_body_that_comes_in_bits_is_answered_and_others_before_it(server: RunningServer) -> None:
    request = request_of(max_tokens=3, ignore_eos=True, temperature=0)
    with connection_of(server) as connection:
        for place in range(0, len(request), 16):
            connection.sendall(request[place : place + 16])
            if place % 64 == 0:
                assert server.chat(max_tokens=1).status_code == 200
        received = rest_of(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b'"completion_tokens":3' in received
