"""``AsyncLLMPipeline`` for a server: requests are told apart, watched and drained."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openvino_genai import ChatHistory, GenerationFinishReason

from ov_kvcrush import AsyncChat, AsyncLLMPipeline, KVCacheConfig
from ov_kvcrush.errors import ConfigError, ContextError, EngineClosedError, PromptError
from ov_kvcrush.runtime.interface import Engine
from ov_kvcrush.runtime.paged.engine import PagedEngine
from tests.support.coroutines import run
from tests.support.engines import F32

LONG: dict[str, Any] = {"max_new_tokens": 100_000, "ignore_eos": True}
DOCUMENT = "The fierce statue costs 7129 coins. " * 60


@pytest.fixture
def pipeline(needle_f32_dir: Path) -> Iterator[AsyncLLMPipeline]:
    pipeline = AsyncLLMPipeline(
        needle_f32_dir,
        "CPU",
        F32,
        kv_cache_config=KVCacheConfig(pool_size=16384),
        max_num_batched_tokens=128,
        context_length=4000,
    )
    yield pipeline
    pipeline.close()


def test_a_request_is_accepted_before_it_has_any_token(pipeline: AsyncLLMPipeline) -> None:
    async def serve() -> None:
        answer = pipeline.generate(DOCUMENT, max_new_tokens=4)
        await answer.accepted()
        assert not answer.done
        assert (await answer).texts[0] is not None
        await answer.accepted()  # it still was

    run(serve())


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ([5, 6, 999_999], PromptError),
        ([5] * 4000, ContextError),
        ([-5], PromptError),
        ("word " * 40_000, ContextError),
        ("half \ud800" + "a" * 200_000, PromptError),
    ],
)
def test_what_is_wrong_with_one_is_told_to_that_one_only(
    pipeline: AsyncLLMPipeline, inputs: Any, error: type[Exception]
) -> None:
    async def serve() -> None:
        good = pipeline.generate("How many?", max_new_tokens=40, ignore_eos=True)
        bad = pipeline.generate(inputs, repetition_penalty=1.2, max_new_tokens=4)
        with pytest.raises(error):
            await bad.accepted()
        with pytest.raises(error):
            await bad
        assert (await good).metrics[0].num_generated_tokens == 40

    run(serve())


@pytest.mark.parametrize("inputs", [b"x", [True], ["a", "b"], [1.0], {3}, None, bytearray(b"ab")])
def test_what_are_not_token_ids_is_refused_at_once(pipeline: AsyncLLMPipeline, inputs: Any) -> None:
    with pytest.raises(PromptError, match="neither a text, a ChatHistory nor token ids"):
        pipeline.generate(inputs)


def test_a_long_text_gives_what_it_gives_at_once(
    pipeline: AsyncLLMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve() -> str:
        return (await pipeline.generate("How many?", max_new_tokens=6)).texts[0]

    wanted = run(serve())
    monkeypatch.setattr("ov_kvcrush.pipeline.async_pipeline._LONG_TEXT", 3)
    assert run(serve()) == wanted


def test_who_leaves_before_the_whole_answer_is_there_ends_it(pipeline: AsyncLLMPipeline) -> None:
    async def serve() -> None:
        answer = pipeline.generate("How many?", **LONG)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(answer, 0.2)
        results = await answer
        assert results.finish_reasons == [GenerationFinishReason.NONE]

    run(serve())


def test_as_long_as_one_waits_another_may_leave(pipeline: AsyncLLMPipeline) -> None:
    async def serve() -> None:
        answer = pipeline.generate("How many?", max_new_tokens=300, ignore_eos=True)
        stays = asyncio.ensure_future(answer.result())
        leaves = asyncio.ensure_future(answer.result())
        await asyncio.sleep(0.05)
        leaves.cancel()
        assert (await stays).metrics[0].num_generated_tokens == 300

    run(serve())


def test_a_snapshot_and_health_wait_for_nothing(pipeline: AsyncLLMPipeline) -> None:
    async def serve() -> None:
        assert pipeline.snapshot().num_requests == 0
        answers = [pipeline.generate(f"{n} {DOCUMENT}", max_new_tokens=3) for n in range(3)]
        await answers[0].accepted()
        health = pipeline.health()
        assert (health.alive, health.broken, health.steps_failed_in_a_row) == (True, False, 0)
        answers[2].cancel()
        await asyncio.gather(*answers)
        await pipeline.call(lambda _: None)  # a look after the last step
        told = pipeline.snapshot()
        ended = told.ended_requests
        assert (told.num_requests, told.num_running, told.num_waiting) == (0, 0, 0)
        assert (ended.num_finished, ended.num_cancelled, ended.num_failed) == (2, 1, 0)

    run(serve())
    pipeline.close()
    assert not pipeline.health().alive


@pytest.mark.parametrize("seconds", [60.0, 0.3])
def test_draining_lets_the_answers_end(pipeline: AsyncLLMPipeline, seconds: float) -> None:
    async def serve() -> None:
        short = pipeline.generate("How many?", max_new_tokens=30, ignore_eos=True)
        settings = {**LONG, "max_new_tokens": 60} if seconds > 1 else LONG
        long = pipeline.generate("And how many?", **settings)
        await asyncio.gather(short.accepted(), long.accepted())
        draining = asyncio.ensure_future(pipeline.drain(seconds))
        await asyncio.sleep(0)
        with pytest.raises(EngineClosedError):
            pipeline.generate("One more?")
        await draining
        reasons = [(await answer).finish_reasons[0] for answer in (short, long)]
        finished = GenerationFinishReason.LENGTH
        if seconds > 1:
            assert reasons == [finished, finished]
        else:
            assert reasons[1] == GenerationFinishReason.NONE
            assert (await long).metrics[0].num_generated_tokens > 0

    run(serve())
    assert not pipeline.health().alive


def test_an_owners_prompts_quicken_his_own_only(pipeline: AsyncLLMPipeline) -> None:
    async def reused(owner: str) -> int:
        answer = await pipeline.generate(DOCUMENT + owner, owner=owner, max_new_tokens=2)
        return answer.metrics[0].num_reused_tokens

    async def serve() -> None:
        assert [await reused(owner) for owner in ("ann", "bob", "")] == [0, 0, 0]
        assert all([await reused(owner) > 300 for owner in ("ann", "bob", "")])
        read = await pipeline.cache_prefix(f"Once more. {DOCUMENT}", owner="ann")
        asked = f"Once more. {DOCUMENT} Who?"
        other = await pipeline.generate(asked, owner="bob", max_new_tokens=2)
        assert other.metrics[0].num_reused_tokens == 0
        own = await pipeline.generate("Who?", prefix=read, owner="bob", max_new_tokens=2)
        assert own.metrics[0].num_reused_tokens >= len(read.token_ids) - 1

    run(serve())


def test_an_owners_histories_are_found_by_him_only(pipeline: AsyncLLMPipeline) -> None:
    first = {"role": "user", "content": DOCUMENT + " Who?"}

    async def reused(history: ChatHistory, owner: str) -> int:
        answer = await pipeline.generate(history, owner=owner, max_new_tokens=4)
        return answer.metrics[0].num_reused_tokens

    async def serve() -> None:
        answer = await pipeline.generate(ChatHistory([first]), owner="ann", max_new_tokens=4)
        said = {"role": "assistant", "content": answer.texts[0]}
        longer = ChatHistory([first, said, {"role": "user", "content": "Why?"}])
        assert await reused(longer, "bob") == 0
        assert await reused(longer, "ann") > 300

    run(serve())


def test_a_chat_keeps_its_cache_and_what_was_said(
    pipeline: AsyncLLMPipeline, tmp_path: Path
) -> None:
    path = tmp_path / "chat.safetensors"

    async def serve() -> None:
        chat = pipeline.chat("You read numbers.")
        first = await chat.ask(DOCUMENT + " How many?", max_new_tokens=8)
        assert [m["role"] for m in chat.messages] == ["system", "user", "assistant"]
        assert chat.messages[-1]["content"] == first.texts[0]
        pieces = [piece async for piece in chat.ask("And now?", max_new_tokens=8)]
        assert chat.messages[-1]["content"] == "".join(pieces)
        await pipeline.save_session(path, chat)
        again = await pipeline.load_session(path)
        assert isinstance(again, AsyncChat)
        assert again.messages == chat.messages
        third = await again.ask("And then?", max_new_tokens=4)
        assert third.metrics[0].num_reused_tokens > 500
        await chat.close()
        await again.close()

    run(serve())


def test_a_chat_answers_one_at_a_time_and_forgets_what_was_broken_off(
    pipeline: AsyncLLMPipeline,
) -> None:
    async def serve() -> None:
        chat = pipeline.chat()
        answer = chat.ask("How many?", **LONG)
        with pytest.raises(ConfigError, match="still answering"):
            chat.ask("Me too?")
        answer.cancel()
        await answer
        assert chat.messages == ()
        with pytest.raises(PromptError, match="empty"):
            chat.ask("  ")
        with pytest.raises(ConfigError, match="max_new_token"):
            chat.ask("How many?", max_new_token=3)
        with pytest.raises(ContextError):
            await chat.ask("word " * 9000)
        assert (await chat.ask("How many?", max_new_tokens=3)).texts[0]
        assert len(chat.messages) == 2

    run(serve())


def test_chats_can_be_saved_when_all_is_drained(pipeline: AsyncLLMPipeline, tmp_path: Path) -> None:
    async def serve() -> None:
        chat = pipeline.chat()
        answer = chat.ask("How many?", max_new_tokens=20)
        await answer.accepted()

        async def save() -> None:
            await pipeline.save_session(tmp_path / "chat.safetensors", chat)

        await pipeline.drain(60, before_close=save)
        assert len(chat.messages) == 2

    run(serve())
    assert (tmp_path / "chat.safetensors").exists()


def test_a_chat_and_an_answer_that_nobody_holds_leave_nothing(pipeline: AsyncLLMPipeline) -> None:
    async def talk() -> None:
        chat = pipeline.chat()
        await chat.ask(DOCUMENT, max_new_tokens=3)
        chat.ask("And endlessly?", **LONG)  # nobody holds this one

    async def used() -> int:
        def look(engine: Engine) -> int:
            assert isinstance(engine, PagedEngine)
            engine.prefixes.clear()
            engine.check_integrity()
            return engine.metrics().used_bytes + engine.metrics().num_requests

        return await pipeline.call(look)

    async def serve() -> None:
        await talk()
        while await used():  # until the second one has been ended
            await asyncio.sleep(0.01)

    run(serve())
