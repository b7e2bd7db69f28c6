"""What many clients make of `ov-kvcrush serve`, and what serving by HTTP costs.

    python benchmarks/serve_load.py path/to/a/model soak --conversations 50 --seconds 300
    python benchmarks/serve_load.py path/to/a/model throughput
    python benchmarks/serve_load.py path/to/a/model latency
    python benchmarks/serve_load.py --url http://127.0.0.1:8000 soak     # a server that runs

* soak: conversations at once, some with a session key, whose clients leave three times in ten.
  Afterwards nothing may run or wait, every page has to be free or of something that is parked, and
  no request that was not left may have failed; else the exit code is 1.
* throughput: as many requests at once over HTTP as without, by the same pipeline, taking turns.
  The clients are a process of their own on the same machine, and do as little as they can.
* latency: of /health and /metrics while a prompt as long as the model's context is read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

from harness.asking import model_name, times_line
from harness.light_client import post
from harness.served import ServerChild, answer_all, served
from harness.soak import soak
from ov_kvcrush import KVCacheConfig
from ov_kvcrush.machine import LoadMeter

_PATIENCE = 300.0


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", help="an exported model's folder")
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--url", help="a server that runs, instead; OV_KVCRUSH_API_KEY is its key")
    parser.add_argument("--budget", type=int, default=1024, help="tokens kept of a sequence")
    parser.add_argument("--pool", type=int, default=32768, help="tokens of all sequences")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--conversations", type=int, default=50)
    parser.add_argument("--requests", type=int, default=16, help="at once")
    parser.add_argument("--prompt-words", type=int, default=200)
    parser.add_argument("--answer-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if (options.url is None) == (options.model is None):
        parser.error("give a model or --url, one of them")
    if options.url and options.what == "throughput":
        parser.error("throughput is measured beside the server's own pipeline: give a model")
    config = KVCacheConfig(max_cache_size=options.budget, pool_size=options.pool)
    load = LoadMeter()
    with served(options.model, config) if options.model else nullcontext() as child:
        troubles = asyncio.run(_measure(options, child))
    print(f"other processes took {load.others_percent():.0f} % of all processors meanwhile")
    for trouble in troubles:
        print(f"NOT AS IT SHOULD BE: {trouble}")
    sys.exit(bool(troubles))


async def _measure(options: argparse.Namespace, child: ServerChild | None) -> list[str]:
    key = os.environ.get("OV_KVCRUSH_API_KEY", "")
    client = httpx2.AsyncClient(
        base_url=options.url or (child.url if child else ""),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=_PATIENCE,
        limits=httpx2.Limits(max_connections=None),
    )
    async with client:
        while (await client.get("/ready")).status_code != 200:
            await asyncio.sleep(0.1)
        troubles: list[str] = await MEASURES[options.what](options, client, child)
        return troubles


async def _soak(
    options: argparse.Namespace, client: httpx2.AsyncClient, child: ServerChild | None
) -> list[str]:
    return await soak(client, child, options.conversations, options.seconds)


async def throughput(
    options: argparse.Namespace, client: httpx2.AsyncClient, child: ServerChild | None
) -> list[str]:
    """Time the same requests with and without HTTP, whole and as streams."""
    assert child is not None
    model = await model_name(client)
    sides: dict[str, Callable[[Sequence[str]], Any]] = {
        f"{way}, {'stream' if stream else 'whole'}": partial(run, stream=stream)
        for stream in (False, True)
        for way, run in (
            ("pipeline", partial(_by_pipeline, child, options.answer_tokens)),
            ("HTTP", partial(_by_http, child.url, model, options.answer_tokens)),
        )
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1, options.rounds):  # one before, that does not count
        names = list(sides)
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            # Nothing of another round or side is in the cache.
            prompts = [
                f"{number} {place} {n}: " + " ".join(f"w{(n * 7 + k) % 97}" for k in range(count))
                for n, count in enumerate([options.prompt_words] * options.requests)
            ]
            seconds = await sides[name](prompts)
            if number >= 0:
                times[name].append(seconds)
    total = options.requests * options.answer_tokens
    for name, taken in times.items():
        print(f"{name}: {total / median(taken):.0f} tokens a second, {median(taken):.2f} s")
    for kind in ("whole", "stream"):
        with_http, without = times[f"HTTP, {kind}"], times[f"pipeline, {kind}"]
        ratios = [b / a for a, b in zip(with_http, without, strict=True)]
        print(f"HTTP / pipeline, {kind}: {median(ratios):.3f} of its throughput ({_range(ratios)})")
    return []


async def latency(
    options: argparse.Namespace, client: httpx2.AsyncClient, child: ServerChild | None
) -> list[str]:
    """Time those who watch while a long prompt is read."""
    body = await _long_prompt(client)
    asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
    taken: dict[str, list[float]] = {"/health": [], "/metrics": []}
    began = time.perf_counter()
    while not asking.done():
        for path, times in taken.items():
            sent = time.perf_counter()
            (await client.get(path)).raise_for_status()
            times.append(time.perf_counter() - sent)
        await asyncio.sleep(0.02)
    usage = (await asking).raise_for_status().json()["usage"]
    print(f"{usage['prompt_tokens']:,} tokens were read in {time.perf_counter() - began:.1f} s")
    for path, times in taken.items():
        print(times_line(path, times))
    return []


MEASURES: dict[str, Callable[..., Any]] = {
    "soak": _soak,
    "throughput": throughput,
    "latency": latency,
}


async def _by_pipeline(
    child: ServerChild, num_tokens: int, prompts: Sequence[str], stream: bool
) -> float:
    answer = partial(answer_all, prompts=prompts, num_tokens=num_tokens, stream=stream)
    seconds: float = await asyncio.to_thread(child.ask, answer)
    return seconds


async def _by_http(
    url: str, model: str, num_tokens: int, prompts: Sequence[str], stream: bool
) -> float:
    async def answer(prompt: str) -> None:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        body |= {"max_tokens": num_tokens, "ignore_eos": True, "temperature": 0, "stream": stream}
        last = await post(f"{url}/v1/chat/completions", body)
        assert not stream or b"[DONE]" in last

    began = time.perf_counter()
    await asyncio.gather(*map(answer, prompts))
    return time.perf_counter() - began


async def _long_prompt(client: httpx2.AsyncClient) -> dict[str, Any]:
    """A chat of nearly as many tokens as the model reads, 8,000 at most."""
    model = (await client.get("/v1/models")).raise_for_status().json()["data"][0]
    wanted = min(model["max_model_len"] or 8192, 8192) - 256
    words, count = 0, 0
    while count < wanted:
        words += max(1, (wanted - count) // 8)
        text = " ".join(f"word{n * 37 % 1009}" for n in range(words))
        count = (await client.post("/tokenize", json={"prompt": text})).json()["count"]
    return {"model": model["id"], "messages": [{"role": "user", "content": text}], "max_tokens": 1}


def _range(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.3f} to {max(ratios):.3f} of {len(ratios)}"


if __name__ == "__main__":
    main()
