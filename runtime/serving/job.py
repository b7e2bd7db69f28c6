"""A request from outside the engine's thread: how it begins, what has come of it, how it ended."""

from __future__ import annotations

from concurrent.futures import Future

from ov_kvcrush.runtime.generation.progress import Progress
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.serving.mailbox import Mailbox


class Job:
    """A request on its way to the engine, and back.

    Attributes:
        request: once the engine has it.
        progress: of its first sequence, for one reader.
        accepted: done once the engine has it; what ended it before is raised there too.
        started: done once it has a token, or has ended in whatever way.
        finished: the request, or what ended it.
        is_cancelled: nobody waits for it any more.
    """

    def __init__(self) -> None:
        self.request: Request | None = None
        self.progress = Mailbox[Progress]()
        self.accepted: Future[None] = Future()
        self.started: Future[None] = Future()
        self.finished: Future[Request] = Future()
        for future in (self.accepted, self.started, self.finished):
            future.set_running_or_notify_cancel()  # who waits for it may leave, but not end it
        self.is_cancelled = False
        self._num_published = 0

    def accept(self, request: Request) -> None:
        """The engine has it, as ``request``."""
        self.request = request
        self.accepted.set_result(None)

    def publish(self) -> bool:
        """Pass on what the engine has generated; False where whoever read it is gone."""
        request = self.request
        if request is None:
            raise RuntimeError("there is no request yet")
        finished = request.finished
        if finished or any(generation.metrics.token_times for generation in request.generations):
            self._start()
        progress = request.generations[0].progress(self._num_published)
        self._num_published += len(progress.token_ids)
        if finished:
            self._finish(request.error)
        is_news = bool(progress.token_ids) or finished
        return not is_news or self.progress.put([progress], close=finished)

    def fail(self, error: BaseException) -> None:
        """End it with ``error``, if it has not ended."""
        if not self.accepted.done():
            self.accepted.set_exception(error)
        self._start()
        try:
            self.progress.put([], close=True)
        finally:
            self._finish(error)

    def _start(self) -> None:
        if not self.started.done():
            self.started.set_result(None)

    def _finish(self, error: BaseException | None) -> None:
        if self.finished.done():
            return
        if error is not None:
            self.finished.set_exception(error)
        elif self.request is not None:
            self.finished.set_result(self.request)
