"""Clients that leave in all ways, many at once: afterwards the engine holds nothing of them."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx2

from ov_kvcrush import LLMPipeline
from ov_kvcrush.runtime.paged.engine import PagedEngine
from tests.support.server import RunningServer

NUM_CLIENTS = 60


async def come_and_go(url: str, number: int) -> str:
    """One client that leaves whenever it likes; how its request has ended."""
    chance = random.Random(number)
    length = chance.choice([5, 900])
    words = " ".join(chance.choices(["red", "green", "blue", "door", "box"], k=length))
    body: dict[str, Any] = {
        "model": "needle",
        "messages": [{"role": "user", "content": f"{number} {words}"}],
        "max_tokens": chance.choice([4, 7000]),
        "ignore_eos": True,
        "stream": number % 2 == 0,
        "session_id": chance.choice(["", f"of {number % 7}"]),
    }
    await asyncio.sleep(chance.uniform(0, 2))
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
        stays = body["max_tokens"] == 4 and chance.random() < 0.5
        done, _ = await asyncio.wait([asking], timeout=None if stays else chance.uniform(0, 1))
        if done:
            return str(asking.result().status_code)
        asking.cancel()
        return "left"


def test_whoever_leaves_leaves_nothing_behind(server: RunningServer, pipeline: LLMPipeline) -> None:
    async def run() -> list[str]:
        clients = (come_and_go(server.url, number) for number in range(NUM_CLIENTS))
        return await asyncio.gather(*clients)

    ends = asyncio.run(run())
    assert set(ends) <= {"200", "429", "left"}
    assert "200" in ends
    assert ends.count("left") > NUM_CLIENTS / 4
    server.wait_until(lambda: server.service.admission.num_open == 0)
    server.wait_until(lambda: server.num_at_work == 0)
    assert server.service.log.open == []
    assert server.service.log.ends["error"] == 0

    engine = pipeline.loaded_model.engine
    assert isinstance(engine, PagedEngine)
    with pipeline.loaded_model.lock:
        engine.check_integrity()
        metrics = engine.metrics()
    assert metrics.owners["running"] == metrics.owners["waiting"] == 0
    assert server.chat(max_tokens=3).status_code == 200
