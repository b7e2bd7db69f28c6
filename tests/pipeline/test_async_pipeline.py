"""``AsyncLLMPipeline``: texts as they come, the same as ``LLMPipeline`` gives, chats, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from openvino_genai import ChatHistory

import ov_kvcrush
from ov_kvcrush import AsyncLLMPipeline, KVCacheConfig, LLMPipeline
from ov_kvcrush.errors import ConfigError, EngineClosedError, PromptError
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.answers import encoded
from tests.support.coroutines import run
from tests.support.engines import F32

TEXTS = [f"The fierce statue costs {n}29 coins. How many coins does it cost?" for n in range(4)]


@pytest.fixture(scope="module")
def sync(needle_f32_dir: Path) -> LLMPipeline:
    config = KVCacheConfig(pool_size=2048)
    return LLMPipeline(needle_f32_dir, "CPU", F32, kv_cache_config=config)


@pytest.fixture
def pipeline(sync: LLMPipeline) -> Iterator[AsyncLLMPipeline]:
    pipeline = AsyncLLMPipeline(sync)
    yield pipeline
    pipeline.close()


def test_pieces_make_the_text_that_a_pipeline_gives(
    sync: LLMPipeline, pipeline: AsyncLLMPipeline
) -> None:
    wanted = [sync.generate(text, max_new_tokens=20) for text in TEXTS]

    async def ask(text: str) -> str:
        answer = pipeline.generate(text, max_new_tokens=20)
        pieces = [piece async for piece in answer]
        assert all(pieces)
        results = await answer
        assert results.texts == ["".join(pieces)]
        assert results.metrics[0].ttft > 0
        assert answer.done
        return results.texts[0]

    async def serve() -> list[str]:
        return await asyncio.gather(*map(ask, TEXTS))

    assert run(serve()) == wanted


def test_a_pipelines_own_calls_still_work_beside(
    sync: LLMPipeline, pipeline: AsyncLLMPipeline
) -> None:
    wanted = sync.generate(TEXTS[0], max_new_tokens=20)

    async def serve() -> tuple[str, str]:
        answer = pipeline.generate(TEXTS[1], max_new_tokens=400, ignore_eos=True)
        beside = await asyncio.to_thread(sync.generate, TEXTS[0], max_new_tokens=20)
        return str(beside), (await answer).texts[0]

    beside, text = run(serve())
    assert beside == wanted
    assert text


def test_histories_and_sessions_go_on_from_their_cache(pipeline: AsyncLLMPipeline) -> None:
    async def chat(session: Session | None) -> int:
        history = ChatHistory([{"role": "user", "content": TEXTS[0]}])
        first = await pipeline.generate(history, session=session)
        history.append({"role": "assistant", "content": first.texts[0]})
        history.append({"role": "user", "content": "Are you sure?"})
        second = await pipeline.generate(history, session=session)
        if session is not None:
            await pipeline.close_session(session)
        return second.metrics[0].num_reused_tokens

    async def serve() -> tuple[int, ...]:
        # Two that say the same at the same time do not get into each other's cache.
        return await asyncio.gather(chat(None), chat(None), chat(Session()))

    assert min(run(serve())) > 10


def test_ids_go_in_as_they_are(sync: LLMPipeline, pipeline: AsyncLLMPipeline) -> None:
    ids = sync.get_tokenizer().encode(TEXTS[0]).input_ids

    async def serve() -> str:
        return (await pipeline.generate(ids.data[0].tolist(), max_new_tokens=8)).texts[0]

    wanted = encoded(sync.generate(ids, max_new_tokens=8)).tokens[0]
    assert run(serve()) == sync.get_tokenizer().decode(wanted)


def test_what_is_wrong_is_said_at_once_where_it_shows(pipeline: AsyncLLMPipeline) -> None:
    for wrong in ("", 7, [TEXTS[0]]):
        with pytest.raises(PromptError):
            pipeline.generate(wrong)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        pipeline.generate(TEXTS[0], max_new_token=3)

    async def too_long() -> None:
        await pipeline.generate([7] * 5000)

    with pytest.raises(PromptError, match="does not fit"):
        run(too_long())


def test_a_broken_off_answer_frees_its_pages(pipeline: AsyncLLMPipeline) -> None:
    async def serve() -> None:
        before = (await pipeline.get_metrics())["kv_cache"]["used_bytes"]
        async for _ in pipeline.generate(TEXTS[0], max_new_tokens=100_000, ignore_eos=True):
            break
        while (await pipeline.get_metrics())["kv_cache"]["used_bytes"] > before:
            await asyncio.sleep(0.01)

    run(serve())


def test_it_is_made_from_a_folder_and_closed_by_its_block(needle_int8_dir: Path) -> None:
    async def serve() -> ov_kvcrush.AsyncLLMPipeline:
        async with AsyncLLMPipeline(needle_int8_dir, "cpu", F32) as pipeline:
            assert pipeline.describe().to_dict()["inference_precision"] == "f32"
            assert pipeline.get_generation_config().eos_token_id == 2
            assert (await pipeline.generate(TEXTS[0], max_new_tokens=3)).texts[0]
            return pipeline

    pipeline = run(serve())
    with pytest.raises(EngineClosedError):
        pipeline.generate(TEXTS[0])


def test_a_pipeline_that_is_made_takes_no_more_settings(sync: LLMPipeline) -> None:
    with pytest.raises(ConfigError, match="no more settings"):
        AsyncLLMPipeline(sync, engine="genai")


def test_the_genai_engine_serves_too(needle_int8_dir: Path) -> None:
    async def serve() -> list[str]:
        async with AsyncLLMPipeline(needle_int8_dir, engine="genai") as pipeline:
            answers = [pipeline.generate(text, max_new_tokens=8) for text in TEXTS]
            answers[0].cancel()
            return [(await answer).texts[0] for answer in answers]

    assert all(run(serve())[1:])


def test_prefixes_are_saved_and_loaded_while_others_are_answered(
    pipeline: AsyncLLMPipeline, tmp_path: Path
) -> None:
    path = tmp_path / "document.safetensors"
    document = "The fierce statue costs 7129 coins. " * 20

    async def serve() -> list[str]:
        other = pipeline.generate(TEXTS[0], max_new_tokens=60, ignore_eos=True)
        prefix = await pipeline.cache_prefix(document)
        summary = await pipeline.save_session(path, prefix)
        assert (summary.kind, summary.num_tokens) == ("prefix", len(prefix.token_ids))
        first = await pipeline.generate(TEXTS[1], prefix=prefix, max_new_tokens=8)
        await pipeline.close_session(prefix.session)
        again = await pipeline.load_session(path)
        assert isinstance(again, CachedPrefix)
        second = await pipeline.generate(TEXTS[1], prefix=again, max_new_tokens=8)
        assert second.metrics[0].num_reused_tokens >= len(again.token_ids) - 1
        await other
        await pipeline.close_session(again.session)
        return [*first.texts, *second.texts]

    first, second = run(serve())
    assert first == second
