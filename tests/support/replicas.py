"""Servers of many replicas, each a cluster of its own on this machine; one at a time."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.support.server_process import ServerProcess, server_process

_PATIENCE = 60.0
_SAMPLE = re.compile(r"ray_(\w+)\{(.*)\} (\S+)")
_REPLICA = re.compile(r'replica="(\w+)"')


@dataclass
class Replicas:
    """A running server.

    Attributes:
        server: its command.
        client: asks it.
    """

    server: ServerProcess
    client: httpx2.Client

    def ask(
        self,
        messages: list[dict[str, str]],
        session: str,
        timeout: float = _PATIENCE,
        **fields: Any,
    ) -> httpx2.Response:
        """The reply to a conversation; greedy, of 16 tokens, unless ``fields`` say otherwise."""
        return self.client.post(
            "/v1/chat/completions",
            json=_body(messages, **fields),
            headers={"x-session-id": session},
            timeout=timeout,
        )

    @contextmanager
    def stream(self, text: str, session: str, **fields: Any) -> Iterator[Iterator[str]]:
        """The lines of a streamed one."""
        body = _body([{"role": "user", "content": text}], stream=True, **fields)
        with self.client.stream(
            "POST", "/v1/chat/completions", json=body, headers={"x-session-id": session}
        ) as response:
            assert response.status_code == 200
            yield (line for line in response.iter_lines() if line)

    def stats(self, session: str) -> dict[str, Any]:
        """What the replica of ``session`` holds and does."""
        told: dict[str, Any] = self.client.get("/stats", headers={"x-session-id": session}).json()
        return told

    def metrics(self, name: str) -> dict[str, float]:
        """The metric ``name`` of each replica."""
        line = next(line for line in self.server.said if "metrics of the replicas" in line)
        found: dict[str, float] = {}
        for sample in _SAMPLE.finditer(httpx2.get(line.split(" at ")[1].strip()).text):
            if sample[1] == name and (replica := _REPLICA.search(sample[2])):
                found[replica[1]] = found.get(replica[1], 0.0) + float(sample[3])
        return found

    def processes(self) -> list[psutil.Process]:
        """Of the replicas."""
        return [process for process in self.family() if _is_replica(process)]

    def family(self) -> list[psutil.Process]:
        """All that the command has started."""
        return psutil.Process(self.server.pid).children(recursive=True)


def wait_until(is_so: Callable[[], bool], seconds: float = _PATIENCE) -> None:
    """Wait for something that happens elsewhere."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def replicas(model: Path, *flags: str) -> Iterator[Replicas]:
    """A server of two replicas, of one thread each; nothing of it runs after the block."""
    os.environ.pop("RAY_ADDRESS", None)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = ["--ray", "--replicas", "2", "--threads", "1", "--port", str(port)]
    given += ["--max-cache-size", "256", "--model-name", "needle", "--no-access-log", *flags]
    with server_process(model, *given) as server:
        family: list[psutil.Process] = []
        try:
            server.wait_until_ready()
            with httpx2.Client(base_url=server.url, timeout=_PATIENCE) as client:
                running = Replicas(server, client)
                family = running.family()
                yield running
        finally:
            if psutil.pid_exists(server.pid):
                server.tell(signal.SIGTERM)
                server.end()
            for process in family:
                if process.is_running():
                    process.kill()


def _body(messages: list[dict[str, str]], **fields: Any) -> dict[str, Any]:
    body = {"model": "needle", "messages": messages, "temperature": 0, "ignore_eos": True}
    return {**body, "max_tokens": 16, **fields}


def _is_replica(process: psutil.Process) -> bool:
    try:
        return any("ServeReplica" in part for part in process.cmdline())
    except psutil.Error:
        return False
