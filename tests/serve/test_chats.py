"""Chats by session key: each goes on from its cache, they are told apart, and they are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ov_kvcrush import AsyncLLMPipeline
from ov_kvcrush.errors import UnsupportedError
from tests.support.coroutines import run
from tests.support.served_chats import DOCUMENT, ask, chats_of, pipeline_of, user


@pytest.fixture(scope="module")
def pipeline(needle_int8_dir: Path) -> Iterator[AsyncLLMPipeline]:
    pipeline = pipeline_of(needle_int8_dir)
    yield pipeline
    pipeline.close()


async def parked_bytes(pipeline: AsyncLLMPipeline) -> int:
    await pipeline.call(lambda engine: engine.check_integrity())
    return await pipeline.call(lambda engine: engine.metrics().owners["chats"])


def test_a_history_goes_on_from_its_chat(pipeline: AsyncLLMPipeline) -> None:
    async def serve() -> None:
        chats = chats_of(pipeline)
        messages = [user(DOCUMENT)]
        first = await ask(pipeline, chats, messages)
        assert first.num_reused_tokens == 0
        messages.append(user("And room 7?"))
        second = await ask(pipeline, chats, messages)
        assert second.num_reused_tokens > 0.9 * second.num_prompt_tokens
        assert len(chats) == 1

    run(serve())


def test_an_edited_history_goes_on_from_before_the_edit(pipeline: AsyncLLMPipeline) -> None:
    async def serve() -> None:
        chats = chats_of(pipeline)
        messages = [user(DOCUMENT)]
        first = await ask(pipeline, chats, messages)
        messages[1]["content"] = "I do not know."
        messages.append(user("And room 7?"))
        edited = await ask(pipeline, chats, messages)
        assert edited.restarted == ""
        assert edited.num_reused_tokens == first.num_prompt_tokens

    run(serve())


def test_what_was_cut_since_an_edit_goes_on_from_a_cut_before_it(
    pipeline: AsyncLLMPipeline,
) -> None:
    async def serve() -> None:
        chats = chats_of(pipeline)
        messages = [user(DOCUMENT + " Which is the highest?")]
        await ask(pipeline, chats, messages)
        messages.append(user(DOCUMENT))
        await ask(pipeline, chats, messages)
        messages[1]["content"] = "I do not know."
        edited = await ask(pipeline, chats, [*messages[:2], user("And room 7?")])
        assert "differs from the cached one" in edited.restarted
        assert 0.5 * edited.num_prompt_tokens < edited.num_reused_tokens

    run(serve())


def test_keys_and_owners_are_told_apart(pipeline: AsyncLLMPipeline) -> None:
    async def serve() -> None:
        chats = chats_of(pipeline)
        messages = [user("Of " + DOCUMENT)]
        await ask(pipeline, chats, messages)
        for key, owner in (("key", "bob"), ("key", "")):
            metrics = await ask(pipeline, chats, [*messages, user("And room 7?")], key, owner)
            assert metrics.num_reused_tokens == 0
        assert len(chats) == 3

    run(serve())


def test_a_chat_that_answers_takes_no_second_request(pipeline: AsyncLLMPipeline) -> None:
    async def serve() -> None:
        chats = chats_of(pipeline)
        turn = await chats.begin("key", "ann")
        assert turn is not None
        assert await chats.begin("key", "ann") is None
        assert await chats.begin("other", "ann") is not None
        await turn.end([user("Hello")], None)
        await turn.end([user("Hello")], None)
        assert await chats.begin("key", "ann") is not None

    run(serve())


def test_only_so_many_are_known_and_the_one_used_longest_ago_goes(
    pipeline: AsyncLLMPipeline,
) -> None:
    async def serve() -> None:
        chats = chats_of(pipeline, max_sessions=2)
        for key in ("a", "b", "a", "c"):
            await ask(pipeline, chats, [user(f"Chat {key}. {DOCUMENT}")], key)
        assert len(chats) == 2
        again = [user(f"Chat a. {DOCUMENT}")]
        assert (await ask(pipeline, chats, again, "a")).num_reused_tokens > 200
        turns = [await chats.begin(key, "ann") for key in ("a", "b")]
        assert all(turns)
        assert await chats.begin("d", "ann") is None  # both answer

    run(serve())


def test_a_chat_that_idles_too_long_is_forgotten_and_its_pages_are_freed(
    pipeline: AsyncLLMPipeline,
) -> None:
    async def serve() -> None:
        before = await parked_bytes(pipeline)
        chats = chats_of(pipeline, session_seconds=0.3)
        await ask(pipeline, chats, [user(DOCUMENT)])
        await chats.save_idle()
        assert len(chats) == 1
        assert await parked_bytes(pipeline) > before
        await asyncio.sleep(0.4)
        await chats.save_idle()
        await chats.save_all()
        assert len(chats) == 0
        assert await parked_bytes(pipeline) == before

    run(serve())


def test_a_broken_off_answer_leaves_the_chat_to_be_asked_again(pipeline: AsyncLLMPipeline) -> None:
    async def serve() -> None:
        chats = chats_of(pipeline)
        messages = [user(DOCUMENT)]
        turn = await chats.begin("key", "ann")
        assert turn is not None
        answer = pipeline.generate(
            DOCUMENT, session=turn.session, max_new_tokens=10_000, ignore_eos=True
        )
        await answer.accepted()
        answer.cancel()
        await turn.end(messages, None)
        metrics = await ask(pipeline, chats, messages)
        assert metrics.num_prompt_tokens > 0

    run(serve())


def test_the_genai_engine_saves_none(needle_int8_dir: Path, tmp_path: Path) -> None:
    async def serve() -> None:
        async with AsyncLLMPipeline(needle_int8_dir, engine="genai") as pipeline:
            with pytest.raises(UnsupportedError, match="genai engine keeps no cache"):
                chats_of(pipeline, tmp_path)
            chats = chats_of(pipeline)
            messages = [user("Hello")]
            await ask(pipeline, chats, messages)
            assert len(chats) == 1

    run(serve())
