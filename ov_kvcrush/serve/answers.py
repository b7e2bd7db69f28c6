"""One reply, whole or as a stream, for as long as its client is there and its time lasts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from openvino_genai import GenerationFinishReason
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ov_kvcrush.errors import GrammarError, OVKVCrushError
from ov_kvcrush.serve.errors import (
    ApiError,
    as_api_error,
    engine_failed,
    invalid_schema,
    queue_timeout,
    request_timeout,
    shutting_down,
)
from ov_kvcrush.serve.event_stream import EventStream
from ov_kvcrush.serve.reply import Reply
from ov_kvcrush.serve.request_log import RequestRecord
from ov_kvcrush.serve.service import Service

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.answer import Answer
    from ov_kvcrush.pipeline.results import DecodedResults
    from ov_kvcrush.serve.admission import Place

_KEEP_ALIVE_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Question(Protocol):
    """What a reply answers: how the pipeline is asked, and what is kept of the answer.

    Attributes:
        form_field: the field that says what form its answers have.
    """

    form_field: str

    async def ask(self) -> Sequence[Answer]:
        """Queue an answer to each prompt, one at least.

        Raises:
            ApiError, OVKVCrushError: what is wrong with the request.
        """

    def check(self, answer: Answer) -> None:
        """Look at an answer that the engine has accepted.

        Raises:
            ApiError: its prompt leaves too little room for it.
        """

    async def end(self, results: Sequence[DecodedResults] | None) -> None:
        """Keep what is to be kept; called once, before the client knows that the answer has ended.

        Args:
            results: None where it was broken off.
        """


class AnswerResponse(Response):
    """Answers a question for whoever awaits it, and ends within a step when they leave.

    Args:
        service: whose pipeline is asked.
        record: of the request, filled in.
        question: to be answered.
        reply: the form it gets.
        stream: as server-sent events.
    """

    def __init__(
        self,
        service: Service,
        record: RequestRecord,
        question: Question,
        reply: Reply,
        stream: bool,
    ) -> None:
        super().__init__()
        self._service = service
        self._record = record
        self._question = question
        self._reply = reply
        self._is_stream = stream
        self._answers: Sequence[Answer] = ()
        self._arrived = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, while the client is there.

        Raises:
            ApiError: what ended it before the client was told a status.
        """
        record, seconds = self._record, self._service.settings.request_seconds
        events = EventStream(send, self._reply.ends_with_done)
        record.endpoint = scope["path"]
        with (
            self._service.admission.place(record.key) as place,
            self._service.log.answering(record),
        ):
            work = asyncio.create_task(self._answer(scope, receive, send, events, place))
            gone = asyncio.create_task(until_gone(receive))
            is_done = has_left = False
            try:
                await asyncio.wait(
                    (work, gone), timeout=seconds or None, return_when=asyncio.FIRST_COMPLETED
                )
                is_done, has_left = work.done(), gone.done() and not work.done()
            except asyncio.CancelledError:  # whoever runs the application has seen the client leave
                is_done, has_left = work.done(), not work.done()
                raise
            finally:
                if has_left:
                    record.end = "cancelled"
                await _cancelled(work, gone)
            if has_left:
                return
            error = self._error_of(work) if is_done else request_timeout(seconds)
            if error is None:
                return
            record.end = "error"
            if not events.began:
                raise error
            record.status, record.rejected = error.status, error.rejected
            await events.end(self._reply.error_event(error))

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, events: EventStream, place: Place
    ) -> None:
        results: Sequence[DecodedResults] | None = None
        try:
            self._answers = await self._question.ask()
            place.hold_until_ended(self._answers)
            for answer in self._answers:
                await self._accepted(answer)
                self._record.num_prompt_tokens += answer.num_prompt_tokens
                self._question.check(answer)
            results = await self._generate(events)
        finally:
            await self._settle(results)
        reply = self._reply
        if self._is_stream:
            last = reply.last_events(results[0])
            self._record.end = reply.end
            await events.put(last)
            await events.end()
        else:
            body = reply.whole(results)
            self._record.end = reply.end
            await JSONResponse(body)(scope, receive, send)

    async def _accepted(self, answer: Answer) -> None:
        try:
            await answer.accepted()
        except GrammarError as error:
            field = self._question.form_field
            raise invalid_schema(f"{field}: {error}", field) from error

    async def _generate(self, events: EventStream) -> Sequence[DecodedResults]:
        """The answers; those of a stream have been sent but for their end."""
        if self._is_stream:
            await events.begin()
            await events.put(self._reply.first_events())
        try:
            await self._wait_for_token(events)
            if self._is_stream:
                async for delta in self._answers[0].deltas():
                    await events.put(self._reply.events(delta))
            results = [await answer for answer in self._answers]
        except (ApiError, OVKVCrushError):
            raise
        except Exception as error:
            # What belongs to one request is one of those above: this ended all that ran.
            _log.exception("request %s: a step failed", self._record.id)
            raise engine_failed(500) from error
        if any(GenerationFinishReason.NONE in result.finish_reasons for result in results):
            raise shutting_down()  # nobody else cancels an answer that is still awaited
        return results

    async def _wait_for_token(self, events: EventStream) -> None:
        """Wait until an answer has begun.

        Raises:
            ApiError: it takes too long.
        """
        limit = self._service.settings.queue_seconds
        started = [asyncio.ensure_future(answer.started()) for answer in self._answers]
        try:
            while True:
                left = self._arrived + limit - time.monotonic()
                if left <= 0:
                    raise queue_timeout(limit)
                done, _ = await asyncio.wait(
                    started,
                    timeout=min(left, _KEEP_ALIVE_SECONDS),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if done:
                    break
                if self._is_stream and left > _KEEP_ALIVE_SECONDS:
                    await events.keep_alive()
        finally:
            for waiting in started:
                waiting.cancel()
        self._record.ttft = time.monotonic() - self._arrived

    async def _settle(self, results: Sequence[DecodedResults] | None) -> None:
        """Let the engine and the question know that it has ended, and note what it cost."""
        for answer in self._answers:
            answer.cancel()
        known = list(results or ())
        if results is None:
            for answer in self._answers:
                with suppress(Exception):  # it has been told already
                    known.append(await answer)
        record = self._record
        for result in known:
            costs = result.metrics
            record.num_cached_tokens += costs[0].num_reused_tokens
            record.num_generated_tokens += sum(cost.num_generated_tokens for cost in costs)
            record.restarted = record.restarted or costs[0].restarted
        try:
            await self._question.end(results)
        except Exception:  # the answer is there all the same
            _log.exception("request %s: its conversation could not be kept", record.id)

    def _error_of(self, work: asyncio.Task[None]) -> ApiError | None:
        if work.cancelled():
            return shutting_down()
        error = work.exception()
        if error is None:
            return None
        told = as_api_error(error)
        if told.status >= 500 and not isinstance(error, ApiError):
            _log.error("request %s failed", self._record.id, exc_info=error)
        return told


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    """Cancel ``tasks``, and wait until they have ended, also where the waiting is cancelled too."""
    for task in tasks:
        task.cancel()
    waiting = asyncio.ensure_future(asyncio.wait(tasks))
    try:
        await asyncio.shield(waiting)
    except asyncio.CancelledError:
        await waiting
        raise


async def until_gone(receive: Receive) -> None:
    """Wait until the client has left, or has its whole reply."""
    while (await receive())["type"] != "http.disconnect":
        pass
