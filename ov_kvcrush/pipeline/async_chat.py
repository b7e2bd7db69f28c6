"""A conversation over the asynchronous pipeline: each turn reads only what is new."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from openvino_genai import ChatHistory, GenerationConfig, GenerationFinishReason

from ov_kvcrush.pipeline.answer import Answer
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
from ov_kvcrush.pipeline.chat import Chat
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.sequences.session import Session


class Generate(Protocol):
    """``AsyncLLMPipeline.generate``, as a chat calls it."""

    def __call__(
        self,
        inputs: ChatHistory,
        generation_config: GenerationConfig | Mapping[str, Any] | None,
        *,
        session: Session,
        prefix: CachedPrefix | None,
        **kwargs: Any,
    ) -> Answer:
        """Queue a history."""


class AsyncChat:
    """One conversation with a pipeline. Make it with :meth:`AsyncLLMPipeline.chat`.

    Args:
        chat: what it holds.
        generate: queues a history.
        read_answer: text of a finished request, and why it ended.
        close_session: frees a cache between two steps.

    Attributes:
        chat: what it holds, for whoever saves it; its own ``ask`` would hold up an event loop.
    """

    def __init__(
        self,
        chat: Chat,
        generate: Generate,
        read_answer: Callable[[Request], tuple[str, GenerationFinishReason]],
        close_session: Callable[[Session], Awaitable[None]],
    ) -> None:
        self.chat = chat
        self._generate = generate
        self._read_answer = read_answer
        self._close_session = close_session

    @property
    def messages(self) -> Sequence[Mapping[str, str]]:
        """Role and content of each message so far."""
        return tuple(self.chat.messages)

    def ask(
        self,
        message: str,
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Answer:
        """Add a user message and queue its answer, which joins the conversation when it has ended.

        An answer that an error or its reader breaks off leaves the conversation as it was.

        Raises:
            ConfigError: the chat is still answering.
            PromptError, UnsupportedError: as :meth:`AsyncLLMPipeline.generate`.
        """
        turn = self.chat.begin_turn(message)
        try:
            answer = self._generate(
                ChatHistory(turn.asked),
                generation_config,
                session=self.chat.session,
                prefix=self.chat.prefix,
                **kwargs,
            )
        except BaseException:
            turn.end()
            raise

        read_answer = self._read_answer

        def end(finished: Future[Request]) -> None:
            # In the engine's thread, before anybody who waits for the answer goes on. It does not
            # hold the answer: one that nobody else holds any more is to end.
            with turn:
                if finished.exception() is None:
                    turn.keep(*read_answer(finished.result()))

        answer.when_done(end)
        return answer

    async def close(self) -> None:
        """Free the cache. The conversation stays, and would be read anew."""
        await self._close_session(self.chat.session)
