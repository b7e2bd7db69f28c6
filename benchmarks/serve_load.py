"""What many clients make of `ov-kvcrush serve`, and what serving by HTTP costs.

    python benchmarks/serve_load.py path/to/a/model soak --conversations 50 --seconds 300
    python benchmarks/serve_load.py path/to/a/model throughput
    python benchmarks/serve_load.py path/to/a/model latency
    python benchmarks/serve_load.py --url http://127.0.0.1:8000 soak     # a server that runs

* soak: conversations at once, some with a session key, whose clients leave three times in ten.
  Afterwards nothing may run or wait, every page has to be free or of something that is parked, and
  no request that was not left may have failed; else the exit code is 1.
* throughput: as many requests at once over HTTP as without, by the same pipeline, taking turns.
  The clients are a process of their own on the same machine.
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
import numpy as np

from harness.conversations import Conversation, Tally
from harness.served import CHUNK, Look, ServerChild, answer_all, look, served
from ov_kvcrush import KVCacheConfig
from ov_kvcrush.machine import LoadMeter

_PATIENCE = 300.0
# Of a soak, before memory is looked at for the first time: what is kept has found its place.
_WARM = 0.2


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
        return await MEASURES[options.what](options, client, child)


async def soak(
    options: argparse.Namespace, client: httpx2.AsyncClient, child: ServerChild | None
) -> list[str]:
    """Have clients come and go, and look at what is left; what is wrong with it."""
    model, tally = await _model(client), Tally()
    if child is not None:
        await _see_all_sizes(client, model)
    began = time.monotonic()
    until = began + options.seconds
    talks = [
        asyncio.create_task(Conversation(client, model, number, tally).run(until))
        for number in range(options.conversations)
    ]
    looks = []
    for share in (_WARM, (1 + _WARM) / 2, 1.0):
        await asyncio.sleep(max(0.0, began + share * options.seconds - time.monotonic()))
        looks.append(await _look(child))
    await asyncio.gather(*talks)
    seconds = time.monotonic() - began
    left = await _settled(client)
    after = await _look(child)
    print(
        f"{options.conversations} conversations, {seconds:.0f} s: {tally.num_answered:,} answered, "
        f"{tally.num_left:,} left by their clients, {len(tally.failures)} failed; "
        f"{tally.num_tokens / seconds:.0f} tokens a second"
    )
    print(_line("TTFT of streams", tally.ttft))
    print(f"afterwards: {_of_pages(left)}")
    troubles = [*tally.failures[:5], *_troubles(left)]
    if child is not None:
        for name, one in zip(
            ("after warm-up", "middle", "end", "idle"), [*looks, after], strict=True
        ):
            print(
                f"{name}: {one.resident_bytes / 1e6:,.0f} MB resident, "
                f"{one.used_bytes / 1e6:.1f} MB of KV cache in use"
            )
        troubles += [one.trouble for one in (*looks, after) if one.trouble]
        print(f"pages: {after.trouble or 'each is free, or held as often as it is counted'}")
    return troubles


async def throughput(
    options: argparse.Namespace, client: httpx2.AsyncClient, child: ServerChild | None
) -> list[str]:
    """Time the same requests with and without HTTP, whole and as streams."""
    assert child is not None
    model = await _model(client)
    sides: dict[str, Callable[[Sequence[str]], Any]] = {
        f"{way}, {'stream' if stream else 'whole'}": partial(run, stream=stream)
        for stream in (False, True)
        for way, run in (
            ("pipeline", partial(_by_pipeline, child, options.answer_tokens)),
            ("HTTP", partial(_by_http, client, model, options.answer_tokens)),
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
        print(_line(path, times))
    return []


MEASURES: dict[str, Callable[..., Any]] = {
    "soak": soak,
    "throughput": throughput,
    "latency": latency,
}


async def _see_all_sizes(client: httpx2.AsyncClient, model: str) -> None:
    """Have steps of every size computed once: the plugin keeps what it makes for each.

    Otherwise memory grows as long as sizes come that have not been there yet.
    """
    for count in range(2, CHUNK + 1):
        # None begins like another one, so that all of it is read.
        prompt = [1 + count % 128, 1 + count // 128, *[7] * (count - 2)]
        body = {"model": model, "prompt": prompt, "max_tokens": 1}
        (await client.post("/v1/completions", json=body)).raise_for_status()


async def _by_pipeline(
    child: ServerChild, num_tokens: int, prompts: Sequence[str], stream: bool
) -> float:
    answer = partial(answer_all, prompts=prompts, num_tokens=num_tokens, stream=stream)
    seconds: float = await asyncio.to_thread(child.ask, answer)
    return seconds


async def _by_http(
    client: httpx2.AsyncClient, model: str, num_tokens: int, prompts: Sequence[str], stream: bool
) -> float:
    async def answer(prompt: str) -> None:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        body |= {"max_tokens": num_tokens, "ignore_eos": True, "temperature": 0, "stream": stream}
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            reply.raise_for_status()
            last = b""
            async for piece in reply.aiter_raw():
                last = (last + piece)[-40:]
        assert not stream or b"[DONE]" in last

    began = time.perf_counter()
    await asyncio.gather(*map(answer, prompts))
    return time.perf_counter() - began


async def _model(client: httpx2.AsyncClient) -> str:
    return str((await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"])


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


async def _look(child: ServerChild | None) -> Look:
    if child is None:
        return Look(0, 0, 0, 0, 0, "")
    found: Look = await asyncio.to_thread(child.ask, look)
    return found


async def _settled(client: httpx2.AsyncClient) -> dict[str, Any]:
    """The server's figures when nobody asks it any more, at most five seconds later."""
    for _ in range(50):
        await asyncio.sleep(0.1)
        told: dict[str, Any] = (await client.get("/stats")).raise_for_status().json()
        if not _troubles(told):
            break
    return told


def _troubles(told: dict[str, Any]) -> list[str]:
    sequences, held = told["engine"]["sequences"], told["engine"]["kv_cache"]
    found = {
        "sequences that run": sequences["running"],
        "sequences that wait": sequences["waiting"],
        "requests that are answered": len(told["open"]),
        "bytes of sequences that run or wait": held["running_bytes"] + held["waiting_bytes"],
        # Pages that chats and prefixes share count for both of them.
        "bytes of nobody": max(
            0, held["used_bytes"] - held["chats_bytes"] - held["prefixes_bytes"]
        ),
    }
    return [f"{count} {name}" for name, count in found.items() if count]


def _of_pages(told: dict[str, Any]) -> str:
    sequences, held = told["engine"]["sequences"], told["engine"]["kv_cache"]
    return (
        f"{sequences['running']} run, {sequences['waiting']} wait, {len(told['open'])} are answered"
        f"; {held['used_bytes'] / 1e6:.1f} MB in use, chats {held['chats_bytes'] / 1e6:.1f} MB and "
        f"prefixes {held['prefixes_bytes'] / 1e6:.1f} MB (what they share counts for both)"
    )


def _line(name: str, times: Sequence[float]) -> str:
    if not times:
        return f"{name}: none"
    p50, p95, most = (1e3 * float(np.quantile(times, share)) for share in (0.5, 0.95, 1.0))
    return f"{name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms, most {most:.1f} ms, of {len(times):,}"


def _range(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.3f} to {max(ratios):.3f} of {len(ratios)}"


if __name__ == "__main__":
    main()
