"""A soak of a server: clients that come and leave, and what is left when all are gone."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2

from harness.asking import model_name, times_line
from harness.conversations import Conversation, Tally
from harness.served import CHUNK, Look, ServerChild, look

# Of a soak, before memory is looked at for the first time: what is kept has found its place.
_WARM = 0.2


async def soak(
    client: httpx2.AsyncClient, child: ServerChild | None, conversations: int, seconds: float
) -> list[str]:
    """Have clients come and go, print what became of them, and look at what is left.

    Args:
        client: of the server.
        child: the server, where it was started here.
        conversations: at once.
        seconds: that new requests come in.

    Returns:
        What is not as it should be.
    """
    model, tally = await model_name(client), Tally()
    if child is not None:
        await _see_all_sizes(client, model)
    began = time.monotonic()
    until = began + seconds
    talks = [
        asyncio.create_task(Conversation(client, model, number, tally).run(until))
        for number in range(conversations)
    ]
    looks = []
    for share in (_WARM, (1 + _WARM) / 2, 1.0):
        await asyncio.sleep(max(0.0, began + share * seconds - time.monotonic()))
        looks.append(await _look(child))
    await asyncio.gather(*talks)
    taken = time.monotonic() - began
    left = await _settled(client)
    after = await _look(child)
    print(
        f"{conversations} conversations, {taken:.0f} s: {tally.num_answered:,} answered, "
        f"{tally.num_left:,} left by their clients, {len(tally.failures)} failed; "
        f"{tally.num_tokens / taken:.0f} tokens a second"
    )
    print(times_line("TTFT of streams", tally.ttft))
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


async def _see_all_sizes(client: httpx2.AsyncClient, model: str) -> None:
    """Have steps of every size computed once: the plugin keeps what it makes for each.

    Otherwise memory grows as long as sizes come that have not been there yet.
    """
    for count in range(2, CHUNK + 1):
        # None begins like another one, so that all of it is read.
        prompt = [1 + count % 128, 1 + count // 128, *[7] * (count - 2)]
        body = {"model": model, "prompt": prompt, "max_tokens": 1}
        (await client.post("/v1/completions", json=body)).raise_for_status()


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
