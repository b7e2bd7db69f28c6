"""The thread that owns an engine: it does what it is told between steps, and steps."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeVar

from ov_kvcrush.errors import ConfigError, EngineClosedError
from ov_kvcrush.runtime.engine_metrics import EngineMetrics
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.grammar.grammar_builder import MAX_BUILT_AT_A_TIME
from ov_kvcrush.runtime.interface import Engine
from ov_kvcrush.runtime.serving.engine_lock import EngineLock
from ov_kvcrush.runtime.serving.job import Job

T = TypeVar("T")
Add = Callable[[Engine], Request]
"""Gives a request to an engine."""

# Seconds between two looks at an engine at work: each sums up what it holds.
_LOOK_EVERY = 0.2


@dataclass(frozen=True)
class EngineHealth:
    """Whether an engine in its thread can be relied on.

    Attributes:
        alive: the thread takes requests.
        broken: it could not free what a failed step held, and refuses all that comes.
        steps_failed_in_a_row: the last steps that have failed; each ended what ran.
        step_began_at: clock (``time.monotonic``) when the step began that is being computed, None
            between two.
    """

    alive: bool
    broken: bool
    steps_failed_in_a_row: int
    step_began_at: float | None


class EngineThread:
    """Runs ``engine`` until it is closed.

    Args:
        engine: touched by this thread alone, and by whoever holds ``lock``.
        lock: held while the engine does anything.

    Attributes:
        snapshot: the last look at the engine, at most 0.2 seconds and a step old while it is at
            work.
    """

    def __init__(self, engine: Engine, lock: EngineLock) -> None:
        self._engine = engine
        self._lock = lock
        # None ends the thread. Puts may come from a destructor, in the middle of anything.
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._draining = False
        self._open = weakref.WeakSet[Job]()
        self._running: list[Job] = []
        self._broken: BaseException | None = None
        self._steps_failed_in_a_row = 0
        self._step_began_at: float | None = None
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="ov-kvcrush prompts")
        self._building = ThreadPoolExecutor(
            MAX_BUILT_AT_A_TIME, thread_name_prefix="ov-kvcrush grammars"
        )
        with lock:
            self.snapshot: EngineMetrics = engine.metrics()
        self._looked_at = time.monotonic()
        # A daemon, for Python waits for other threads before it closes what is still open.
        self._thread = threading.Thread(target=self._run, name="ov-kvcrush engine", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ from any thread

    def begin(self, job: Job, add: Add) -> None:
        """Have ``add`` give ``job`` to the engine before its next step.

        Raises:
            EngineClosedError: after :meth:`close` or :meth:`refuse_new`.
        """
        self._open_job(job)
        self._order(lambda: self._begin(job, add))

    def begin_later(
        self, job: Job, prepare: Callable[[], Add], builds_grammar: bool = False
    ) -> None:
        """The same with what ``prepare`` makes, in a thread that takes one text after the other.

        Grammars are built in others.

        Raises:
            EngineClosedError: after :meth:`close` or :meth:`refuse_new`.
        """
        self._open_job(job)
        threads = self._building if builds_grammar else self._preparing
        threads.submit(self._prepare, job, prepare)

    def cancel(self, job: Job) -> None:
        """End ``job`` before the next step, if it has not ended."""
        job.is_cancelled = True
        self._orders.put(lambda: self._cancel(job))

    def call(self, function: Callable[[Engine], T]) -> Future[T]:
        """What ``function`` makes of the engine before its next step."""
        if threading.current_thread() is self._thread:
            raise ConfigError(
                "this call would wait for itself: it was made while the engine answers another one",
                "Use the engine that the function was given.",
            )
        future: Future[T] = Future()

        def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                with self._lock:
                    result = function(self._engine)
            except BaseException as error:  # whoever waits has to hear of any
                future.set_exception(error)
            else:
                future.set_result(result)

        self._order(answer)
        return future

    def refuse_new(self) -> list[Job]:
        """Take no more requests; those that have not ended."""
        with self._gate:
            self._draining = True
            return self._open_jobs()

    def health(self) -> EngineHealth:
        """Whether it can be relied on; waits for nothing."""
        return EngineHealth(
            alive=self._thread.is_alive() and not self._closed,
            broken=self._broken is not None,
            steps_failed_in_a_row=self._steps_failed_in_a_row,
            step_began_at=self._step_began_at,
        )

    def close(self) -> None:
        """End all jobs and the thread, and wait for it."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._orders.put(None)
        for threads in (self._preparing, self._building):
            threads.shutdown(wait=False, cancel_futures=True)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _open_job(self, job: Job) -> None:
        with self._gate:
            if self._closed or self._draining:
                raise EngineClosedError()
            self._open.add(job)

    def _open_jobs(self) -> list[Job]:
        return [job for job in self._open if not job.finished.done()]

    def _order(self, order: Callable[[], None]) -> None:
        with self._gate:  # nothing is put behind the last order
            if self._closed:
                raise EngineClosedError()
            self._orders.put(order)

    # ------------------------------------------------------------------ the thread of prompts

    def _prepare(self, job: Job, prepare: Callable[[], Add]) -> None:
        try:
            add = prepare()
            self._order(lambda: self._begin(job, add))
        except BaseException as error:  # whoever waits has to hear of any
            job.fail(error)

    # ------------------------------------------------------------------ this thread

    def _run(self) -> None:
        while True:
            try:
                order = self._orders.get(block=not self._running)
            except Empty:
                order = self._step
            if order is None:
                self._end_all(EngineClosedError())
                for job in self._open_jobs():  # those still on their way
                    job.fail(EngineClosedError())
                return
            try:
                order()
            except BaseException as error:  # without this thread everybody would wait for ever
                self._end_all(error)
            with suppress(Exception):  # figures are not worth ending anybody's request
                self._look()

    def _look(self) -> None:
        now = time.monotonic()
        if self._running and now - self._looked_at < _LOOK_EVERY:
            return
        with self._lock:
            self.snapshot = self._engine.metrics()
        self._looked_at = now

    def _step(self) -> None:
        with self._lock:
            self._step_began_at = time.monotonic()
            try:
                self._engine.step()
            except BaseException:
                self._steps_failed_in_a_row += 1
                raise
            finally:
                self._step_began_at = None
        self._steps_failed_in_a_row = 0
        for job in list(self._running):
            self._publish(job)

    def _begin(self, job: Job, add: Add) -> None:
        try:
            if self._broken is not None:
                raise self._broken
            with self._lock:
                request = add(self._engine)
        except BaseException as error:
            job.fail(error)
            return
        self._running.append(job)
        job.accept(request)
        if job.is_cancelled:  # before the engine had it
            self._cancel(job)

    def _cancel(self, job: Job) -> None:
        if job not in self._running or job.request is None:
            return
        with self._lock:
            self._engine.cancel(job.request)
        self._publish(job)

    def _publish(self, job: Job) -> None:
        somebody_reads = job.publish()
        if job.finished.done():
            self._running.remove(job)
        elif not somebody_reads:
            self._cancel(job)

    def _end_all(self, error: BaseException) -> None:
        """End every job with ``error``, and let the engine free what they hold."""
        jobs, self._running = self._running, []
        for job in jobs:
            try:
                self._let_go(job)
            except BaseException as again:
                # It cannot even free what they hold: from here on it is not to be trusted.
                self._broken = again
        for job in jobs:
            with suppress(Exception):  # one that cannot be told keeps none of the others waiting
                job.fail(error)

    def _let_go(self, job: Job) -> None:
        if job.request is None:
            return
        with self._lock:
            self._engine.cancel(job.request)
            if job.request.session is not None:
                # A step that failed half-way may have left anything in it.
                self._engine.close_session(job.request.session)
