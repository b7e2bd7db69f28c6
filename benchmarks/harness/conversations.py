"""Conversations over HTTP whose clients leave whenever they like."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2

_WORDS = ["red", "green", "blue", "door", "box", "room", "key", "code", "sun", "sea", "sky"]
_MOST_TURNS = 6
_LEAVES = 0.3


@dataclass
class Tally:
    """What became of the requests of all conversations.

    Attributes:
        num_answered: to their end.
        num_left: by their clients.
        num_tokens: generated in those that were answered.
        ttft: seconds to the first piece of each stream that had one.
        failures: of requests that were not left.
    """

    num_answered: int = 0
    num_left: int = 0
    num_tokens: int = 0
    ttft: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Conversation:
    """One client's conversations, one after the other.

    Args:
        client: of the server.
        model: as the server calls it.
        number: of the client; what it does depends on it alone.
        tally: of all.
    """

    def __init__(self, client: httpx2.AsyncClient, model: str, number: int, tally: Tally) -> None:
        self._client = client
        self._model = model
        self._number = number
        self._tally = tally
        self._chance = random.Random(number)
        self._count = 0

    async def run(self, until: float) -> None:
        """Talk until ``until`` of ``time.monotonic()``; what is being answered then still is."""
        while time.monotonic() < until:
            self._count += 1
            await self._talk(until)

    async def _talk(self, until: float) -> None:
        chance = self._chance
        key = f"{self._number}-{self._count}" if chance.random() < 0.7 else ""
        text = f"{self._number}.{self._count}: {self._text(chance.choice([4, 40, 400, 1200]))}"
        messages = [{"role": "user", "content": text}]
        for _ in range(chance.randint(1, _MOST_TURNS)):
            if time.monotonic() >= until:
                return
            answer = await self._turn(messages, key)
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
                messages.append({"role": "user", "content": self._text(8)})
            await asyncio.sleep(chance.expovariate(4))

    async def _turn(self, messages: list[dict[str, str]], key: str) -> str | None:
        """The answer; None where it was left, or has failed."""
        chance, tally = self._chance, self._tally
        body: dict[str, Any] = {"model": self._model, "messages": messages}
        body |= {"max_tokens": chance.choice([4, 32, 128]), "ignore_eos": chance.random() < 0.5}
        body |= {"session_id": key} if key else {}
        ask = self._streamed if chance.random() < 0.7 else self._whole
        asking = asyncio.ensure_future(ask(body))
        patience = chance.expovariate(0.5) if chance.random() < _LEAVES else None
        done, _ = await asyncio.wait([asking], timeout=patience)
        if not done:
            asking.cancel()
            await asyncio.wait([asking])
            tally.num_left += 1
            return None
        try:
            answer = asking.result()
        except Exception as error:
            tally.failures.append(f"{type(error).__name__}: {error}")
            return None
        tally.num_answered += 1
        return answer

    async def _whole(self, body: dict[str, Any]) -> str:
        reply = await self._client.post("/v1/chat/completions", json=body)
        if reply.status_code != 200:
            raise RuntimeError(f"{reply.status_code}: {reply.text:.200}")
        told = reply.json()
        self._tally.num_tokens += told["usage"]["completion_tokens"]
        return str(told["choices"][0]["message"]["content"])

    async def _streamed(self, body: dict[str, Any]) -> str:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        began = time.perf_counter()
        text, end, ttft, is_whole = "", None, None, False
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                raise RuntimeError(f"{reply.status_code}: {(await reply.aread())[:200]!r}")
            async for line in reply.aiter_lines():
                is_whole = line == "data: [DONE]" or is_whole
                if not line.startswith("data: {"):
                    continue
                told = json.loads(line.removeprefix("data: "))
                if "error" in told:
                    raise RuntimeError(f"in a stream: {told['error']}")
                if told["choices"]:
                    piece = told["choices"][0]["delta"].get("content")
                    if piece and ttft is None:
                        ttft = time.perf_counter() - began
                    text += piece or ""
                    end = told["choices"][0]["finish_reason"] or end
                else:
                    self._tally.num_tokens += told["usage"]["completion_tokens"]
        if end is None or not is_whole:
            raise RuntimeError("a stream broke off")
        if ttft is not None:
            self._tally.ttft.append(ttft)
        return text

    def _text(self, count: int) -> str:
        return " ".join(self._chance.choices(_WORDS, k=count))
