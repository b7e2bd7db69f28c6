"""``AsyncLLMPipeline`` saves and loads while it answers: others wait for no disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush import AsyncChat, AsyncLLMPipeline, KVCacheConfig
from ov_kvcrush.errors import SessionError
from ov_kvcrush.runtime.session_files import held_session, session_file
from ov_kvcrush.runtime.session_files.tensor_file import open_tensors, write_tensors
from tests.support.coroutines import run
from tests.support.texts import rooms

BUDGET = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24, pool_size=4096)


@pytest.fixture
def pipeline(needle_int8_dir: Path) -> Iterator[AsyncLLMPipeline]:
    pipeline = AsyncLLMPipeline(needle_int8_dir, kv_cache_config=BUDGET)
    yield pipeline
    pipeline.close()


async def chat_of_one_turn(pipeline: AsyncLLMPipeline) -> AsyncChat:
    chat = pipeline.chat()
    await chat.ask(rooms(60), max_new_tokens=20, ignore_eos=True)
    return chat


def test_a_slow_disk_holds_up_nobody(
    pipeline: AsyncLLMPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, disk = tmp_path / "chat.safetensors", threading.Event()

    def write_late(*args: Any) -> None:
        disk.wait()
        write_tensors(*args)

    monkeypatch.setattr(held_session, "write_tensors", write_late)

    async def serve() -> None:
        chat = await chat_of_one_turn(pipeline)
        saved = list(chat.messages)
        saving = asyncio.ensure_future(pipeline.save_session(path, chat))
        # Others are answered, and the chat itself.
        await pipeline.generate("Hello", max_new_tokens=5)
        await chat.ask("And room 7?", max_new_tokens=5)
        assert not saving.done()
        disk.set()
        await saving

        disk.clear()
        monkeypatch.setattr(
            session_file, "open_tensors", lambda path: (disk.wait(), open_tensors(path))[1]
        )
        loading = asyncio.ensure_future(pipeline.load_session(path))
        await pipeline.generate("Hello", max_new_tokens=5)
        assert not loading.done()
        disk.set()
        again = await loading
        assert isinstance(again, AsyncChat)
        assert list(again.messages) == saved
        answer = await again.ask("And room 7?", max_new_tokens=5)
        assert answer.texts[0] == chat.messages[-1]["content"]

    run(serve())


def test_a_save_that_nobody_waits_for_any_more_leaves_the_old_file(
    pipeline: AsyncLLMPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, disk, ended = tmp_path / "chat.safetensors", threading.Event(), threading.Event()
    write = held_session.HeldSession.write

    def write_late(*args: object) -> None:
        disk.wait()
        try:
            write(*args)  # type: ignore[arg-type]
        finally:
            ended.set()

    async def serve() -> None:
        chat = await chat_of_one_turn(pipeline)
        await pipeline.save_session(path, chat)
        content = path.read_bytes()
        await chat.ask("And room 7?", max_new_tokens=5)
        monkeypatch.setattr(held_session.HeldSession, "write", write_late)
        saving = asyncio.ensure_future(pipeline.save_session(path, chat))
        await asyncio.sleep(0.2)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        disk.set()
        await asyncio.to_thread(ended.wait)
        assert path.read_bytes() == content
        await chat.close()
        assert await pipeline.call(lambda engine: engine.metrics().owners["chats"]) == 0

    run(serve())


def test_a_file_is_proved_without_being_loaded(pipeline: AsyncLLMPipeline, tmp_path: Path) -> None:
    path = tmp_path / "chat.safetensors"

    async def serve() -> None:
        chat = await chat_of_one_turn(pipeline)
        await pipeline.save_session(path, chat)

    run(serve())
    pipeline.require_usable_session(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SessionError, match="not a usable session"):
        pipeline.require_usable_session(path)
