"""Chats in a folder: what one server has saved another goes on from, and the newer state stays."""

from __future__ import annotations

import ast
import asyncio
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ov_kvcrush import AsyncLLMPipeline, KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.pipeline.saving import saved_kind
from ov_kvcrush.runtime.session_files import held_session
from ov_kvcrush.runtime.session_files.session_file import read_about
from ov_kvcrush.runtime.session_files.tensor_file import write_tensors
from tests.support.coroutines import run
from tests.support.paths import ROOT
from tests.support.served_chats import DOCUMENT, Messages, ask, chats_of, pipeline_of, user
from tests.support.session_holder import held_elsewhere

WEEK = 7 * 24 * 60 * 60


@pytest.fixture(scope="module")
def pipelines(needle_int8_dir: Path) -> Iterator[list[AsyncLLMPipeline]]:
    """Two servers'."""
    pipelines = [pipeline_of(needle_int8_dir) for _ in range(2)]
    yield pipelines
    for pipeline in pipelines:
        pipeline.close()


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def tokens_in(path: Path) -> list[str]:
    """What the chat in a file says."""
    about, _ = read_about(path)
    return [message["content"] for message in about["messages"]]


def with_question(messages: Messages, text: str = "And room 7?") -> Messages:
    return [*messages, user(text)]


def test_a_killed_servers_chat_goes_on_elsewhere(
    needle_int8_dir: Path, pipelines: list[AsyncLLMPipeline], tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.served_chats", str(needle_int8_dir), str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        messages = ast.literal_eval(process.stdout.readline())
        process.kill()

    async def serve() -> None:
        chats = chats_of(pipelines[0], tmp_path)
        metrics = await ask(pipelines[0], chats, with_question(messages, "And room 8?"))
        assert metrics.num_reused_tokens > 0.9 * metrics.num_prompt_tokens
        assert metrics.restarted == ""

    run(serve())


def test_an_answer_is_the_same_after_the_file(
    pipelines: list[AsyncLLMPipeline], tmp_path: Path
) -> None:
    here, there = pipelines

    async def serve() -> None:
        mine, its = chats_of(here, tmp_path), chats_of(there, tmp_path)
        messages = [user(DOCUMENT)]
        await ask(here, mine, messages)
        await mine.save_idle()
        path = only_file(tmp_path)
        assert saved_kind(path) == "chat"
        assert tokens_in(path) == [message["content"] for message in messages]
        assert oct(tmp_path.stat().st_mode)[-3:] == "700"
        first, second = with_question(messages), with_question(messages)
        cost = await ask(there, its, second)
        assert cost.num_reused_tokens > 0.9 * cost.num_prompt_tokens
        await ask(here, mine, first)
        assert first == second

    run(serve())


def test_what_has_not_changed_is_not_saved_again(
    pipelines: list[AsyncLLMPipeline], tmp_path: Path
) -> None:
    async def serve() -> None:
        chats = chats_of(pipelines[0], tmp_path)
        messages = [user(DOCUMENT)]
        await ask(pipelines[0], chats, messages)
        await chats.save_idle()
        inode = only_file(tmp_path).stat().st_ino
        await chats.save_idle()
        await chats.save_all()
        assert only_file(tmp_path).stat().st_ino == inode
        await ask(pipelines[0], chats, with_question(messages))
        await chats.save_all()
        assert only_file(tmp_path).stat().st_ino != inode

    run(serve())


def test_the_newer_state_wins_whoever_saves_last(
    pipelines: list[AsyncLLMPipeline], tmp_path: Path
) -> None:
    here, there = pipelines

    async def serve() -> None:
        mine, its = chats_of(here, tmp_path), chats_of(there, tmp_path)
        messages = [user(DOCUMENT)]
        await ask(here, mine, messages)
        await mine.save_all()
        older, newer = with_question(messages, "Older?"), with_question(messages, "Newer?")
        await ask(here, mine, older)
        await ask(there, its, newer)
        await its.save_all()
        await mine.save_all()
        path = only_file(tmp_path)
        assert "Newer?" in tokens_in(path)
        # Who saves first and is older is replaced.
        longer = with_question(newer, "And now?")
        cost = await ask(here, mine, longer)  # from the file: its own is older
        assert cost.num_reused_tokens > 0.9 * cost.num_prompt_tokens
        await mine.save_all()
        assert "And now?" in tokens_in(path)
        await ask(there, its, with_question(longer, "Later?"))
        await its.save_all()
        assert "Later?" in tokens_in(path)

    run(serve())


def test_a_server_whose_clock_is_late_is_not_left_behind(
    pipelines: list[AsyncLLMPipeline], tmp_path: Path
) -> None:
    async def serve() -> None:
        chats = chats_of(pipelines[0], tmp_path)
        messages = [user(DOCUMENT)]
        await ask(pipelines[0], chats, messages)
        await chats.save_all()
        path, ahead = only_file(tmp_path), time.time() + 3600
        os.utime(path, (ahead, ahead))
        messages = with_question(messages)
        cost = await ask(pipelines[0], chats, messages)
        assert cost.num_reused_tokens > 0.9 * cost.num_prompt_tokens
        await chats.save_all()
        assert path.stat().st_mtime >= ahead
        assert "And room 7?" in tokens_in(path)

    run(serve())


def test_a_cache_that_was_given_up_is_taken_from_the_file_and_not_saved_over_it(
    pipelines: list[AsyncLLMPipeline], tmp_path: Path
) -> None:
    pipeline = pipelines[0]

    async def serve() -> None:
        chats = chats_of(pipeline, tmp_path)
        messages = [user(DOCUMENT)]
        await ask(pipeline, chats, messages)
        await chats.save_all()
        content = only_file(tmp_path).read_bytes()
        messages = with_question(messages)
        await ask(pipeline, chats, messages)
        turn = await chats.begin("key", "ann")
        assert turn is not None
        await pipeline.close_session(turn.session)
        await turn.end(messages, None)
        await chats.save_all()
        assert only_file(tmp_path).read_bytes() == content
        cost = await ask(pipeline, chats, with_question(messages))
        assert cost.num_reused_tokens > 0.8 * cost.num_prompt_tokens

    run(serve())


@pytest.mark.parametrize("damage", ["cut short", "other precision", "not a session", "a prefix"])
def test_a_file_that_cannot_be_used_is_left_alone_and_said_once(
    needle_int8_dir: Path,
    pipelines: list[AsyncLLMPipeline],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    here, there = pipelines
    other = there
    if damage == "other precision":
        other = pipeline_of(
            needle_int8_dir, kv_cache_config=KVCacheConfig(value_cache_precision="u4")
        )

    async def serve() -> None:
        its, messages = chats_of(other, tmp_path), [user(DOCUMENT)]
        await ask(other, its, messages)
        await its.save_all()
        path = only_file(tmp_path)
        if damage == "cut short":
            path.write_bytes(path.read_bytes()[:-100])
        elif damage == "not a session":
            path.write_text("something else")
        elif damage == "a prefix":
            prefix = await there.cache_prefix(DOCUMENT)
            await there.save_session(path, prefix, overwrite=True)
        content = path.read_bytes()
        chats = chats_of(here, tmp_path, max_sessions=1)
        for _ in range(2):
            assert (await ask(here, chats, with_question(messages))).num_generated_tokens
            await chats.save_all()
            await ask(here, chats, [user("Hello")], "another")  # which has the first forgotten
            await chats.save_all()
        assert path.read_bytes() == content
        lines = [record for record in caplog.records if str(path) in record.getMessage()]
        assert len(lines) == 1
        assert "left alone" in lines[0].getMessage()

    with caplog.at_level(logging.WARNING):
        run(serve())


@pytest.mark.parametrize("what", ["cut short", "a prefix"])
def test_a_file_that_came_from_elsewhere_meanwhile_is_looked_at_before_it_is_replaced(
    pipelines: list[AsyncLLMPipeline], tmp_path: Path, what: str
) -> None:
    here, there = pipelines

    async def serve() -> None:
        mine, its, messages = chats_of(here, tmp_path), chats_of(there, tmp_path), [user(DOCUMENT)]
        turn = await mine.begin("key", "ann")  # nothing is there yet
        assert turn is not None
        await ask(there, its, messages)
        await its.save_all()
        path = only_file(tmp_path)
        if what == "a prefix":
            await there.save_session(path, await there.cache_prefix(DOCUMENT), overwrite=True)
        else:
            path.write_bytes(path.read_bytes()[:-100])
        os.utime(path, (1, 1))
        content = path.read_bytes()
        answer = await here.generate(DOCUMENT, session=turn.session, max_new_tokens=4)
        await turn.end([user(DOCUMENT)], answer.texts[0])
        await mine.save_all()
        assert path.read_bytes() == content

    run(serve())


def test_a_file_that_another_process_holds_is_saved_later(
    pipelines: list[AsyncLLMPipeline], tmp_path: Path
) -> None:
    async def serve() -> None:
        chats, messages = chats_of(pipelines[0], tmp_path), [user(DOCUMENT)]
        await ask(pipelines[0], chats, messages)
        await chats.save_all()
        path = only_file(tmp_path)
        messages = with_question(messages)
        await ask(pipelines[0], chats, messages)
        with held_elsewhere(path):
            await chats.save_idle()
            assert "And room 7?" not in tokens_in(path)
        await chats.save_all()
        assert "And room 7?" in tokens_in(path)

    run(serve())


def test_a_slow_disk_holds_up_neither_others_nor_the_chat(
    pipelines: list[AsyncLLMPipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, disk = pipelines[0], threading.Event()

    def write_late(*args: object) -> None:
        disk.wait()
        write_tensors(*args)  # type: ignore[arg-type]

    async def serve() -> None:
        chats, messages = chats_of(pipeline, tmp_path), [user(DOCUMENT)]
        await ask(pipeline, chats, messages)
        monkeypatch.setattr(held_session, "write_tensors", write_late)
        saving = asyncio.ensure_future(chats.save_idle())
        await asyncio.sleep(0.1)
        longer = with_question(messages)
        await ask(pipeline, chats, longer)
        await ask(pipeline, chats, [user("Hello")], "another")
        assert not saving.done()
        disk.set()
        await saving
        assert tokens_in(only_file(tmp_path)) == [m["content"] for m in messages]
        await chats.save_all()
        assert len(list(tmp_path.iterdir())) == 2

    run(serve())


def test_old_files_of_chats_are_removed_and_nothing_else(
    pipelines: list[AsyncLLMPipeline], tmp_path: Path
) -> None:
    async def serve() -> None:
        chats = chats_of(pipelines[0], tmp_path)
        for key in ("old", "new", "held"):
            await ask(pipelines[0], chats, [user(f"Chat {key}. {DOCUMENT}")], key)
            await chats.save_all()
        by_key = {
            key: next(p for p in tmp_path.iterdir() if f"Chat {key}. {DOCUMENT}" in tokens_in(p))
            for key in ("old", "new", "held")
        }
        mine = tmp_path / "mine.safetensors"
        shutil.copy(by_key["old"], mine)
        dead = by_key["old"].with_name(f"chat-{'0' * 40}.safetensors").name
        left = [tmp_path / f".{dead}.partial-{'a' * 16}", tmp_path / f".{dead}.lock"]
        for path in left:
            path.touch()
        long_ago = time.time() - WEEK - 60
        for path in (by_key["old"], by_key["held"], mine, *left):
            os.utime(path, (long_ago, long_ago))
        with held_elsewhere(by_key["held"]):
            await chats_of(pipelines[0], tmp_path).save_idle()
        # Whoever held that one was killed.
        lock = tmp_path / f".{by_key['held'].name}.lock"
        assert {*tmp_path.iterdir()} == {by_key["new"], by_key["held"], mine, lock}

    run(serve())


def test_a_folder_that_cannot_be_made(pipelines: list[AsyncLLMPipeline], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be a folder for chats"):
        chats_of(pipelines[0], tmp_path / "file" / "folder")
