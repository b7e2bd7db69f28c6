"""An answer on its way to an event loop: pieces of text, their tokens, and the whole result."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from concurrent.futures import Future
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ov_kvcrush.pipeline.call_times import CallTimes, timed_call
from ov_kvcrush.pipeline.deltas import Delta, DeltaReader
from ov_kvcrush.pipeline.results import DecodedResults
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.serving.async_engine import AsyncRequest

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.loaded_model import LoadedModel


class Answer:
    """An answer on its way. Iterate over it, once, for pieces of text; await it for the results.

    :meth:`deltas` gives the pieces with their tokens and log probabilities instead.

    An iteration that is broken off, a task cancelled while it awaits either, and an answer that
    nobody holds any more end the request.
    """

    def __init__(self, model: LoadedModel, request: AsyncRequest, times: CallTimes) -> None:
        self._model = model
        self._request = request
        self._times = times

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._request.done

    @property
    def num_prompt_tokens(self) -> int:
        """Of its prompt; 0 before it is accepted."""
        return self._request.num_prompt_tokens

    def cancel(self) -> None:
        """End it within a step, with the text it has; from any thread."""
        self._request.cancel()

    def when_done(self, call: Callable[[Future[Request]], None]) -> None:
        """Have ``call`` told that it has ended, before whoever awaits it goes on; in any thread."""
        self._request.when_done(call)

    async def accepted(self) -> None:
        """Wait until the engine has the request, which from then on only its own end can end.

        Raises:
            PromptError, ConfigError: what is wrong with it.
            Exception: what else ended it before.
        """
        await self._request.accepted()

    async def started(self) -> None:
        """Wait until it has a token, or has ended in whatever way; who leaves ends nothing."""
        await self._request.started()

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """The answer as it comes: text with its tokens, and what was likely in their place.

        All texts together are the awaited answer's text, all tokens its tokens.

        Raises:
            ConfigError: it has several sequences, or is read elsewhere.
            Exception: what ended the request.
        """
        reader = DeltaReader(self._model.tokenizer)
        async with aclosing(self._request.progress()) as news:
            async for progress in news:
                if (delta := reader.read(progress)) is not None:
                    yield delta

    async def pieces(self) -> AsyncGenerator[str, None]:
        """The texts of :meth:`deltas`, none empty. Errors as there."""
        async with aclosing(self.deltas()) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield delta.text

    def __aiter__(self) -> AsyncIterator[str]:
        """The same as :meth:`pieces`."""
        return self.pieces()

    async def result(self) -> DecodedResults:
        """Texts, finish reasons and metrics; of a cancelled answer, as far as it went.

        Raises:
            Exception: what ended the request.
        """
        generations = self._model.ranked([await self._request.result()])
        with timed_call(dataclasses.replace(self._times, detokenization=[])):
            return self._model.decoded(generations)

    def __await__(self) -> Generator[Any, None, DecodedResults]:
        """The same as :meth:`result`."""
        return self.result().__await__()
