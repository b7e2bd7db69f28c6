"""The engine in its thread: real inference, many at once, cancelled, failing, closed at work."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openvino_genai import GenerationConfig, GenerationFinishReason, Tokenizer

from ov_kvcrush.errors import ConfigError, EngineClosedError, PromptError
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.interface import Engine
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.serving.async_engine import AsyncEngine, AsyncRequest
from ov_kvcrush.runtime.serving.job import Job
from ov_kvcrush.runtime.serving.mailbox import Mailbox
from tests.support.coroutines import ENOUGH, run
from tests.support.engines import (
    EXACT,
    F32,
    assert_nothing_held,
    engine_of,
    finish,
    greedy,
    prompt_of,
)
from tests.support.failures import InjectedError, counted

LENGTHS = (150, 40, 220, 90, 33, 64, 12, 130)
PROMPTS = [prompt_of(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def paged(needle_f32_dir: Path) -> PagedEngine:
    # A pool that is short: sequences wait and are preempted.
    return engine_of(needle_f32_dir, properties=F32, pool_size=768, **EXACT)


@pytest.fixture(scope="module")
def alone(paged: PagedEngine) -> list[list[int]]:
    """What each prompt gives synchronously, one after the other."""
    return [finish(paged, paged.add_request(prompt, greedy(24)))[0] for prompt in PROMPTS]


@pytest.fixture
def engine(paged: PagedEngine, alone: list[list[int]]) -> Iterator[AsyncEngine]:
    with AsyncEngine(paged) as engine:
        yield engine
    paged.check_integrity()
    assert not paged.has_unfinished()


def submit(
    engine: AsyncEngine, prompt: list[int], config: GenerationConfig, session: Session | None = None
) -> AsyncRequest:
    return engine.submit(lambda one: one.add_request(prompt, config, session))


async def read(request: AsyncRequest) -> list[int]:
    tokens: list[int] = []
    async for new in request:
        assert new
        tokens += new
    return tokens


async def at_rest(engine: AsyncEngine) -> bool:
    return not await asyncio.wrap_future(engine.call(lambda e: e.has_unfinished()))


# ------------------------------------------------------------------ tokens


def test_many_at_once_get_what_each_gets_alone(engine: AsyncEngine, alone: list[list[int]]) -> None:
    async def serve() -> list[list[int]]:
        return await asyncio.gather(*(read(submit(engine, p, greedy(24))) for p in PROMPTS))

    assert run(serve()) == alone


def test_requests_arrive_and_are_cancelled_while_others_run(
    engine: AsyncEngine, alone: list[list[int]]
) -> None:
    chance = random.Random(0)

    async def client(number: int) -> None:
        await asyncio.sleep(chance.random() * 0.3)
        which = number % len(PROMPTS)
        request = submit(engine, PROMPTS[which], greedy(24))
        tokens: list[int] = []
        leaves_after = chance.choice([None, 0, 1, 5, 20])
        how = chance.choice(["break", "cancel"])
        async for new in request:
            tokens += new
            if leaves_after is not None and len(tokens) > leaves_after:
                if how == "break":
                    break
                request.cancel()
                leaves_after = None
        assert tokens == alone[which][: len(tokens)]
        if how == "cancel":
            finished = (await request).generations[0]
            assert finished.tokens == tokens

    async def serve() -> None:
        await asyncio.gather(*(client(number) for number in range(40)))
        while not await at_rest(engine):
            await asyncio.sleep(0.01)

    run(serve())


def test_the_result_has_all_sequences_and_their_metrics(engine: AsyncEngine) -> None:
    async def serve() -> Request:
        config = greedy(5, do_sample=True, num_return_sequences=3)
        return await submit(engine, PROMPTS[1], config)

    request = run(serve())
    assert [len(g.tokens) for g in request.generations] == [5, 5, 5]
    assert all(g.metrics.ttft > 0 for g in request.generations)


def test_tokens_that_a_stop_string_may_take_back_are_held(
    engine: AsyncEngine, needle_f32_dir: Path, alone: list[list[int]]
) -> None:
    text = Tokenizer(needle_f32_dir).decode(alone[0][:12])
    stop = text[len(text) // 2 :].strip()[:6]

    async def serve() -> tuple[list[int], Request]:
        request = submit(engine, PROMPTS[0], greedy(24, stop_strings={stop}))
        return await read(request), await request

    tokens, request = run(serve())
    assert tokens == request.generations[0].tokens
    assert request.generations[0].finish_reason == GenerationFinishReason.STOP


def test_any_event_loop_and_thread_will_do(engine: AsyncEngine, alone: list[list[int]]) -> None:
    found: dict[int, list[int]] = {}

    def client(number: int) -> None:
        found[number] = run(read_one(number))

    async def read_one(number: int) -> list[int]:
        return await read(submit(engine, PROMPTS[number], greedy(24)))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ENOUGH)
    assert [found[n] for n in range(4)] == alone[:4]


def test_a_session_goes_on_from_its_cache(engine: AsyncEngine) -> None:
    session = Session()

    async def serve() -> int:
        first = await submit(engine, PROMPTS[2], greedy(4), session)
        history = [*PROMPTS[2], *first.generations[0].tokens, *PROMPTS[4]]
        second = await submit(engine, history, greedy(4), session)
        await asyncio.wrap_future(engine.call(lambda e: e.close_session(session)))
        return second.generations[0].metrics.num_reused_tokens

    assert run(serve()) >= len(PROMPTS[2])


# ------------------------------------------------------------------ leaving early


def test_a_cancelled_request_keeps_its_tokens(engine: AsyncEngine) -> None:
    async def serve() -> Request:
        request = submit(engine, PROMPTS[0], greedy(100_000))
        async for _ in request:
            break
        return await request

    request = run(serve())
    assert request.generations[0].tokens
    assert request.generations[0].finish_reason == GenerationFinishReason.NONE


@pytest.mark.parametrize("reads", [True, False])
def test_a_cancelled_task_cancels_its_request(engine: AsyncEngine, reads: bool) -> None:
    async def serve() -> None:
        request = submit(engine, PROMPTS[0], greedy(100_000))
        task = asyncio.ensure_future(read(request) if reads else request.result())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await request).generations[0].finish_reason == GenerationFinishReason.NONE

    run(serve())


def test_a_handle_that_nobody_holds_is_cancelled(engine: AsyncEngine) -> None:
    async def serve() -> None:
        request = submit(engine, PROMPTS[0], greedy(100_000))
        await asyncio.sleep(0.1)
        assert not await at_rest(engine)
        del request
        gc.collect()
        assert await at_rest(engine)

    run(serve())


def test_readers_whose_loop_has_gone_are_cancelled(engine: AsyncEngine) -> None:
    kept: list[object] = []

    async def begin() -> None:
        # Kept, so that only its loop tells that the reader is gone.
        tokens = submit(engine, PROMPTS[0], greedy(100_000)).tokens()
        kept.append(tokens)
        await tokens.__anext__()
        reader = tokens.__anext__()
        reader.send(None)
        kept.append(reader)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()

    async def wait() -> None:
        while not await at_rest(engine):
            await asyncio.sleep(0.01)

    run(wait())


# ------------------------------------------------------------------ errors


def test_an_error_belongs_to_its_request(engine: AsyncEngine, alone: list[list[int]]) -> None:
    async def serve() -> tuple[Any, ...]:
        return await asyncio.gather(
            read(submit(engine, PROMPTS[0], greedy(24))),
            read(submit(engine, [], greedy(24))),
            submit(engine, prompt_of(2000), greedy(24)).result(),
            read(submit(engine, PROMPTS[1], greedy(2, do_sample=True, num_return_sequences=2))),
            read(submit(engine, PROMPTS[3], greedy(24))),
            return_exceptions=True,
        )

    first, empty, long, several, last = run(serve())
    assert (first, last) == (alone[0], alone[3])
    assert isinstance(empty, PromptError)
    assert isinstance(long, PromptError)
    assert isinstance(several, ConfigError)


def test_tokens_are_read_once(engine: AsyncEngine) -> None:
    async def serve() -> None:
        request = submit(engine, PROMPTS[4], greedy(3))
        await read(request)
        with pytest.raises(ConfigError, match="once"):
            await read(request)

    run(serve())


def test_a_failing_step_ends_all_that_run_and_no_more(
    paged: PagedEngine, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, fails = paged.model.forward, threading.Event()

    def failing(batch: Any) -> Any:
        if fails.is_set():
            raise RuntimeError("the plugin fell over")
        return forward(batch)

    monkeypatch.setattr(paged.model, "forward", failing)
    session = Session()

    async def serve(engine: AsyncEngine) -> list[Any]:
        requests = [submit(engine, p, greedy(100)) for p in PROMPTS[:3]]
        requests.append(submit(engine, PROMPTS[3], greedy(100), session))
        async for _ in requests[0].tokens():
            fails.set()
        raise AssertionError("it must not end well")

    with AsyncEngine(paged) as engine:
        with pytest.raises(RuntimeError, match="fell over"):
            run(serve(engine))
        paged.check_integrity()
        fails.clear()
        assert session.sequence is None
        assert not session.busy

        async def again() -> list[int]:
            return await read(submit(engine, PROMPTS[0], greedy(24)))

        assert run(again()) == alone[0]
    assert_nothing_held(paged)


# ------------------------------------------------------------------ the end


def test_closing_at_work_leaves_nobody_waiting(paged: PagedEngine) -> None:
    async def serve() -> list[Any]:
        engine = AsyncEngine(paged)
        reading = [asyncio.ensure_future(read(submit(engine, p, greedy(100_000)))) for p in PROMPTS]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(engine.close)
        ended = await asyncio.gather(*reading, return_exceptions=True)
        with pytest.raises(EngineClosedError):
            submit(engine, PROMPTS[0], greedy(24))
        with pytest.raises(EngineClosedError):
            engine.call(lambda e: e.describe())
        engine.close()
        return list(ended)

    assert all(isinstance(one, EngineClosedError) for one in run(serve()))
    assert_nothing_held(paged)


def test_an_engine_that_nobody_holds_ends_its_thread(paged: PagedEngine) -> None:
    engine = AsyncEngine(paged)
    request = submit(engine, PROMPTS[0], greedy(100_000))
    del engine
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name == "ov-kvcrush engine"]
    with pytest.raises(EngineClosedError):
        run(request.result())
    assert_nothing_held(paged)


def test_a_call_gets_the_engine_and_passes_on_what_it_raises(engine: AsyncEngine) -> None:
    assert engine.call(lambda e: e.describe().engine).result(ENOUGH) == "paged"

    def wrong(_: object) -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        engine.call(wrong).result(ENOUGH)


# ------------------------------------------------------------------ failures of its own


@pytest.mark.parametrize(
    "place",
    [(Job, "publish"), (Mailbox, "put"), (PagedEngine, "cancel"), (PagedEngine, "step")],
    ids=lambda place: f"{place[0].__name__}.{place[1]}",
)
def test_nobody_waits_for_ever_for_what_has_failed(
    engine: AsyncEngine, alone: list[list[int]], place: tuple[type, str]
) -> None:
    async def serve() -> list[Any]:
        requests = [submit(engine, prompt, greedy(24)) for prompt in PROMPTS[:4]]
        await asyncio.sleep(0.05)
        requests[0].cancel()
        ended = asyncio.gather(*requests, return_exceptions=True)
        return await asyncio.wait_for(ended, ENOUGH)

    with counted(place) as calls:
        run(serve())
    for number in {1, calls[0]}:
        with counted(place, fails_at=number):
            run(serve())
    # Its thread lives, and answers as before.
    assert run(read(submit(engine, PROMPTS[1], greedy(24)))) == alone[1]


def test_a_call_that_wants_to_leave_python_does_not_end_the_thread(
    engine: AsyncEngine, alone: list[list[int]]
) -> None:
    def leave(_: Engine) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        engine.call(leave).result(ENOUGH)
    assert run(read(submit(engine, PROMPTS[1], greedy(24)))) == alone[1]


def test_health_tells_of_steps_that_fail(engine: AsyncEngine, alone: list[list[int]]) -> None:
    async def ask() -> list[int]:
        return await read(submit(engine, PROMPTS[1], greedy(24)))

    for number in (1, 2):
        with counted((PagedEngine, "step"), fails_at=1), pytest.raises(InjectedError):
            run(ask())
        assert engine.health().steps_failed_in_a_row == number
    assert run(ask()) == alone[1]
    health = engine.health()
    assert (health.alive, health.broken, health.steps_failed_in_a_row) == (True, False, 0)
    assert health.step_began_at is None


def test_a_call_within_a_call_does_not_wait_for_itself(engine: AsyncEngine) -> None:
    def nested(_: Engine) -> str:
        return engine.call(lambda e: e.describe().engine).result()

    with pytest.raises(ConfigError, match="would wait for itself"):
        engine.call(nested).result(ENOUGH)


def test_what_is_prepared_elsewhere_is_the_same_and_fails_for_itself(
    engine: AsyncEngine, alone: list[list[int]]
) -> None:
    def later(number: int) -> AsyncRequest:
        return engine.submit_later(lambda: lambda e: e.add_request(PROMPTS[number], greedy(24)))

    def wrong() -> Any:
        raise PromptError("wrong")

    async def serve() -> None:
        good, bad, cancelled = later(0), engine.submit_later(wrong), later(1)
        cancelled.cancel()
        with pytest.raises(PromptError, match="wrong"):
            await bad
        assert await read(good) == alone[0]
        assert (await cancelled).generations[0].finish_reason == GenerationFinishReason.NONE

    run(serve())
