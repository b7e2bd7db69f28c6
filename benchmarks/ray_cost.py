"""What Ray Serve costs beside the server alone: to start, in memory, and for a request.

    python benchmarks/ray_cost.py path/to/a/model

One replica, and the server alone with as many threads, take turns: each is started, asked one
request after another, and ended.

* start: from the command to the first request that is taken.
* memory: resident, of the command and all it has started; what processes share counts for each.
* short: a request of one token, as a whole reply.
* stream: a token of a streamed reply of many, beside the reply of one token.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import psutil

from harness.light_client import post

_PATIENCE = 180.0


@dataclass
class Costs:
    """Of one way to serve.

    Attributes:
        start: seconds, a round each.
        megabytes: resident, a round each.
        processes: that it consists of.
        short: seconds of each short request.
        token: seconds of a streamed token, a reply each.
    """

    start: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    processes: int = 0
    short: list[float] = field(default_factory=list)
    token: list[float] = field(default_factory=list)

    def line(self, name: str) -> str:
        """As it is printed."""
        return (
            f"{name:6} start {median(self.start):5.1f} s · {median(self.megabytes):6.0f} MB in "
            f"{self.processes} processes · short {1e3 * median(self.short):6.2f} ms · "
            f"stream {1e3 * median(self.token):6.3f} ms a token"
        )


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="an exported model's folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=300)
    options = parser.parse_args()
    alone, ray = Costs(), Costs()
    for _ in range(options.rounds):
        measure(options, alone)
        measure(options, ray, "--ray", "--replicas", "1")
    print(alone.line("alone"))
    print(ray.line("ray"))


def measure(options: argparse.Namespace, costs: Costs, *flags: str) -> None:
    """Start a server, ask it, and end it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "ov_kvcrush", "serve", str(options.model), *flags]
    command += ["--threads", str(options.threads), "--port", url.rpartition(":")[2]]
    command += ["--max-cache-size", "1024", "--model-name", "model", "--no-access-log"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    begun = time.monotonic()
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    try:
        _wait_until_ready(url, begun + _PATIENCE)
        costs.start.append(time.monotonic() - begun)
        asyncio.run(_ask(url, options, costs))
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        costs.processes = len(family)
        costs.megabytes.append(sum(one.memory_info().rss for one in family) / 1e6)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(_PATIENCE)


async def _ask(url: str, options: argparse.Namespace, costs: Costs) -> None:
    for n in range(-5, options.requests):  # the first are slower, whoever serves
        seconds = await _seconds(url, 1)
        if n >= 0:
            costs.short.append(seconds)
    for _ in range(5):
        one = await _seconds(url, 1, stream=True)
        many = await _seconds(url, options.tokens, stream=True)
        costs.token.append((many - one) / (options.tokens - 1))


async def _seconds(url: str, tokens: int, **fields: Any) -> float:
    body = {"model": "model", "messages": [{"role": "user", "content": "Hello"}], **fields}
    begun = time.perf_counter()
    await post(
        f"{url}/v1/chat/completions",
        {**body, "max_tokens": tokens, "temperature": 0, "ignore_eos": True},
    )
    return time.perf_counter() - begun


def _wait_until_ready(url: str, until: float) -> None:
    while time.monotonic() < until:
        try:
            if httpx2.get(f"{url}/ready").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the server did not get ready")


if __name__ == "__main__":
    main()
