"""Two servers on one folder: one is killed, the other goes on from what its chats had cached."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx2

from tests.support.server_process import ServerProcess, server_process
from tests.support.texts import rooms

PATIENCE = 60.0


def ask(server: ServerProcess, messages: list[dict[str, str]], session: str) -> dict[str, int]:
    """What the next turn of a chat has cost; the answer joins ``messages``."""
    body: dict[str, Any] = {"model": server.model, "messages": messages, "temperature": 0}
    reply = httpx2.post(
        f"{server.url}/v1/chat/completions",
        json={**body, "max_tokens": 16, "ignore_eos": True},
        headers={"x-session-id": session},
        timeout=PATIENCE,
    )
    assert reply.status_code == 200, reply.text
    told = reply.json()
    messages.append({"role": "assistant", "content": told["choices"][0]["message"]["content"]})
    usage = told["usage"]
    return {
        "prompt": usage["prompt_tokens"],
        "cached": usage["prompt_tokens_details"]["cached_tokens"],
    }


def wait_until_saved(folder: Path, since: float, count: int) -> None:
    until = time.monotonic() + PATIENCE
    while sum(path.stat().st_mtime >= since for path in folder.glob("*.safetensors")) < count:
        assert time.monotonic() < until, "the chats were not saved"
        time.sleep(0.1)


def test_after_a_kill_the_other_server_reads_only_what_is_new(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    flags = ("--max-cache-size", "256", "--session-dir", str(tmp_path))
    with (
        server_process(needle_int8_dir, *flags) as first,
        server_process(needle_int8_dir, *flags) as second,
    ):
        first.wait_until_ready()
        second.wait_until_ready()
        chats = [
            [{"role": "user", "content": f"Chat {n}. {rooms(120)}\nWhich is room {n}?"}]
            for n in range(2)
        ]
        for n, chat in enumerate(chats):
            ask(first, chat, f"chat {n}")
        since = time.time()
        for n, chat in enumerate(chats):
            chat.append({"role": "user", "content": "And room 7?"})
            ask(first, chat, f"chat {n}")
        wait_until_saved(tmp_path, since, len(chats))
        first.kill()
        for n, chat in enumerate(chats):
            chat.append({"role": "user", "content": "And room 9?"})
            cost = ask(second, chat, f"chat {n}")
            assert cost["cached"] > 0.9 * cost["prompt"]
            # Another chat of as many tokens has to be read.
            other = [{"role": "user", "content": f"Other {n}. {rooms(120)}"}]
            assert ask(second, other, f"other {n}")["cached"] < 100
