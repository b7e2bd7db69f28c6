"""The thread that owns an engine: it does what it is told between steps, and steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from ov_kvcrush.errors import EngineClosedError
from ov_kvcrush.runtime.generation.progress import Progress
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.interface import Engine
from ov_kvcrush.runtime.serving.mailbox import Mailbox

T = TypeVar("T")


class Job:
    """A request from outside the engine's thread.

    Attributes:
        add: gives it to the engine.
        request: once the engine has it.
        progress: of its first sequence, for one reader.
        finished: the request, or what ended it.
    """

    def __init__(self, add: Callable[[Engine], Request]) -> None:
        self.add = add
        self.request: Request | None = None
        self.progress = Mailbox[Progress]()
        self.finished: Future[Request] = Future()
        self.finished.set_running_or_notify_cancel()  # who waits for it may leave, but not end it
        self._num_published = 0

    def publish(self) -> bool:
        """Pass on what the engine has generated; False where whoever read it is gone."""
        request = self.request
        if request is None:
            raise RuntimeError("there is no request yet")
        finished = request.finished
        progress = request.generations[0].progress(self._num_published)
        self._num_published += len(progress.token_ids)
        if finished:
            self._finish(request.error)
        is_news = bool(progress.token_ids) or finished
        return not is_news or self.progress.put([progress], close=finished)

    def fail(self, error: BaseException) -> None:
        """End it with ``error``, if it has not ended."""
        self._finish(error)
        self.progress.put([], close=True)

    def _finish(self, error: BaseException | None) -> None:
        if self.finished.done():
            return
        if error is not None:
            self.finished.set_exception(error)
        elif self.request is not None:
            self.finished.set_result(self.request)


class EngineThread:
    """Runs ``engine`` until it is closed.

    Args:
        engine: touched by this thread alone, and by whoever holds ``lock``.
        lock: held while the engine does anything.
    """

    def __init__(self, engine: Engine, lock: threading.Lock) -> None:
        self._engine = engine
        self._lock = lock
        # None ends the thread. Puts may come from a destructor, in the middle of anything.
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._running: list[Job] = []
        self._broken: BaseException | None = None
        # A daemon, for Python waits for other threads before it closes what is still open.
        self._thread = threading.Thread(target=self._run, name="ov-kvcrush engine", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ from any thread

    def begin(self, job: Job) -> None:
        """Give ``job`` to the engine before its next step."""
        self._order(lambda: self._begin(job))

    def cancel(self, job: Job) -> None:
        """End ``job`` before the next step, if it has not ended."""
        self._orders.put(lambda: self._cancel(job))

    def call(self, function: Callable[[Engine], T]) -> Future[T]:
        """What ``function`` makes of the engine before its next step."""
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

    def close(self) -> None:
        """End all jobs and the thread, and wait for it."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._orders.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _order(self, order: Callable[[], None]) -> None:
        with self._gate:  # nothing is put behind the last order
            if self._closed:
                raise EngineClosedError()
            self._orders.put(order)

    # ------------------------------------------------------------------ this thread

    def _run(self) -> None:
        while True:
            try:
                order = self._orders.get(block=not self._running)
            except Empty:
                order = self._step
            if order is None:
                self._end_all(EngineClosedError())
                return
            try:
                order()
            except BaseException as error:  # without this thread everybody would wait for ever
                self._end_all(error)

    def _step(self) -> None:
        with self._lock:
            self._engine.step()
        for job in list(self._running):
            self._publish(job)

    def _begin(self, job: Job) -> None:
        try:
            if self._broken is not None:
                raise self._broken
            with self._lock:
                job.request = job.add(self._engine)
        except BaseException as error:
            job.fail(error)
            return
        self._running.append(job)

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
            job.fail(error)

    def _let_go(self, job: Job) -> None:
        if job.request is None:
            return
        with self._lock:
            self._engine.cancel(job.request)
            if job.request.session is not None:
                # A step that failed half-way may have left anything in it.
                self._engine.close_session(job.request.session)
