"""An engine in a thread of its own: requests come from any thread, tokens go to any event loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any, TypeVar

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.runtime.engine_metrics import EngineMetrics
from ov_kvcrush.runtime.generation.progress import Progress
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.interface import Engine
from ov_kvcrush.runtime.serving.engine_lock import EngineLock
from ov_kvcrush.runtime.serving.engine_thread import Add, EngineHealth, EngineThread
from ov_kvcrush.runtime.serving.job import Job

T = TypeVar("T")


class AsyncEngine:
    """Drives an engine, which belongs to it from then on: all that it does is done in one thread.

    Nobody waits for another's step, and nobody for ever: a request ends with its tokens, with its
    own error, with the error of a step, which ends all, or with :class:`EngineClosedError`.

    Args:
        engine: any; nobody else may call it, unless they hold ``lock``.
        lock: held during each step and whatever else is done with the engine.
    """

    def __init__(self, engine: Engine, lock: EngineLock | None = None) -> None:
        self._thread = EngineThread(engine, lock or EngineLock())
        # The thread does not know this object: dropping it, or leaving Python, ends the thread.
        self._finalizer = weakref.finalize(self, self._thread.close)

    def submit(self, add: Add) -> AsyncRequest:
        """Have ``add`` queue a request with the engine, in its thread; returns at once.

        Args:
            add: calls ``Engine.add_request``, whose errors are raised where the request is awaited.

        Raises:
            EngineClosedError: after :meth:`close`, and while it drains.
        """
        job = Job()
        self._thread.begin(job, add)
        return AsyncRequest(job, self._thread)

    def submit_later(
        self, prepare: Callable[[], Add], builds_grammar: bool = False
    ) -> AsyncRequest:
        """The same with what ``prepare`` makes, which may take its time: in a thread of its own.

        Its errors too are raised where the request is awaited.

        Args:
            prepare: makes what ``submit`` takes.
            builds_grammar: it may take a second and more, which texts do not wait for.
        """
        job = Job()
        self._thread.begin_later(job, prepare, builds_grammar)
        return AsyncRequest(job, self._thread)

    def call(self, function: Callable[[Engine], T]) -> Future[T]:
        """Have ``function`` called with the engine in its thread, between two steps.

        For what needs the engine at rest: its metrics, closing or saving a session.

        Raises:
            EngineClosedError: after :meth:`close`.
        """
        return self._thread.call(function)

    @property
    def snapshot(self) -> EngineMetrics:
        """A look at the engine, at most 0.2 seconds and a step old while it works; no waiting."""
        return self._thread.snapshot

    def health(self) -> EngineHealth:
        """Whether the engine can be relied on; no waiting."""
        return self._thread.health()

    async def drain(self, seconds: float) -> None:
        """Take no more requests, and let those there are end.

        Args:
            seconds: after so many those that still run are cancelled, with the tokens they have.
        """
        open_jobs = self._thread.refuse_new()
        waiting = [asyncio.wrap_future(job.finished) for job in open_jobs]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)
            for job in open_jobs:
                self._thread.cancel(job)
            await asyncio.wait(waiting)
            for ended in waiting:
                ended.exception()  # is for whoever waits for the request

    def close(self) -> None:
        """End all requests with EngineClosedError, free what they hold, and join the thread."""
        self._finalizer()

    def __enter__(self) -> AsyncEngine:
        """This engine; it is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class AsyncRequest:
    """A request on its way: its tokens as they come, and its end.

    Await it for the finished :class:`Request`; iterate over it, once, for lists of new tokens,
    which no stop string can take back any more. An iteration that is broken off, a task that is
    cancelled while it awaits either, and a handle that nobody holds any more cancel the request.
    """

    def __init__(self, job: Job, thread: EngineThread) -> None:
        self._job = job
        self._is_read = False
        self._num_waiting = 0
        self._cancel = weakref.finalize(self, thread.cancel, job)
        self._cancel.atexit = False

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._job.finished.done()

    @property
    def num_prompt_tokens(self) -> int:
        """Of its prompt; 0 before it is accepted."""
        request = self._job.request
        return 0 if request is None else len(request.prompt_ids)

    def when_done(self, call: Callable[[Future[Request]], None]) -> None:
        """Have ``call`` told that it has ended, before whoever awaits it goes on; in any thread."""
        self._job.finished.add_done_callback(call)

    def cancel(self) -> None:
        """End the request within a step, with the tokens it has; from any thread.

        Nothing happens where it has ended.
        """
        self._cancel()

    async def tokens(self) -> AsyncGenerator[list[int], None]:
        """Lists of new tokens, none empty. Errors as :meth:`progress`."""
        ids: list[int] = []
        num_given = 0
        async with aclosing(self.progress()) as news:
            async for new in news:
                ids += new.token_ids
                if num_given < new.num_settled:
                    yield ids[num_given : new.num_settled]
                    num_given = new.num_settled

    async def progress(self) -> AsyncGenerator[Progress, None]:
        """All that comes, once.

        Raises:
            ConfigError: it has several sequences, or its tokens are read elsewhere.
            Exception: what ended the request.
        """
        if self._is_read:
            raise ConfigError(
                "the tokens of this request are already being read",
                "Iterate over a request once; await it for its result.",
            )
        self._is_read = True
        try:
            while news := await self._job.progress.take():
                request = self._job.request
                if request is not None and len(request.generations) > 1:
                    raise ConfigError(
                        "the tokens of several return sequences cannot be read as one",
                        "Await the result, or make as many requests with num_return_sequences=1.",
                    )
                for new in news:
                    yield new
            await self.result()
        finally:
            self.cancel()

    def __aiter__(self) -> AsyncIterator[list[int]]:
        """The same as :meth:`tokens`."""
        return self.tokens()

    async def accepted(self) -> None:
        """Wait until the engine has it.

        Raises:
            Exception: what ended it before, such as a prompt that does not fit.
        """
        await self._outcome(self._job.accepted)

    async def started(self) -> None:
        """Wait until it has a token, or has ended in whatever way; who leaves cancels nothing."""
        await asyncio.shield(asyncio.wrap_future(self._job.started))

    async def result(self) -> Request:
        """The finished request.

        Raises:
            Exception: what ended it.
        """
        return await self._outcome(self._job.finished)

    async def _outcome(self, future: Future[T]) -> T:
        """What ``future`` gives; the last one who leaves without it cancels the request."""
        self._num_waiting += 1
        try:
            # Shielded, for others may wait for it too.
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            if self._num_waiting == 1:
                self.cancel()
            raise
        finally:
            self._num_waiting -= 1

    def __await__(self) -> Generator[Any, None, Request]:
        """The same as :meth:`result`."""
        return self.result().__await__()
