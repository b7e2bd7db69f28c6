"""``/chat/completions``: the next message of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from ov_kvcrush.serve.answers import AnswerResponse
from ov_kvcrush.serve.errors import loading
from ov_kvcrush.serve.messages import chat_history
from ov_kvcrush.serve.named_prefixes import NamedPrefix, behind
from ov_kvcrush.serve.replies import ChatReply
from ov_kvcrush.serve.sampling import generation_settings, require_room
from ov_kvcrush.serve.schemas import ChatRequest
from ov_kvcrush.serve.service import Service

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.answer import Answer
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline
    from ov_kvcrush.pipeline.results import DecodedResults
    from ov_kvcrush.serve.chats import ChatTurn

router = APIRouter()

SESSION_HEADER = "x-session-id"
"""Names the conversation a request belongs to; before what its body says."""


@router.post("/chat/completions")
async def chat(body: ChatRequest, request: Request) -> Response:
    """The assistant's next message."""
    service: Service = request.app.state.service
    pipeline = service.usable_pipeline()
    service.require_model(body.model)
    record = request.state.record
    key = request.headers.get(SESSION_HEADER, "") or body.session_key
    question = _Turn(service, pipeline, body, record.key, key)
    reply = ChatReply.of(body, service.settings.model_names[0], service.texts)
    return AnswerResponse(service, record, question, reply, bool(body.stream))


class _Turn:
    """One more message of a conversation, whose cache is found by key, or by how it begins.

    Args:
        service: of the server.
        pipeline: answers.
        body: the request.
        owner: name of its API key.
        key: of the session; empty without one.
    """

    def __init__(
        self,
        service: Service,
        pipeline: AsyncLLMPipeline,
        body: ChatRequest,
        owner: str,
        key: str,
    ) -> None:
        self._service = service
        self._pipeline = pipeline
        self._body = body
        self._owner = owner
        self._key = key
        self._turn: ChatTurn | None = None
        self._messages: list[dict[str, Any]] = []

    async def ask(self) -> Sequence[Answer]:
        """Queue the answer."""
        pipeline, body, settings = self._pipeline, self._body, self._service.settings
        history = chat_history(body, settings)
        prefix = self._named_prefix()
        if prefix is not None:
            history = behind(prefix, history)
        self._messages = history.get_messages()
        config = generation_settings(
            body, pipeline.get_generation_config(), settings, pipeline.context_length
        )
        # A session has one continuation.
        chats, num_answers = self._service.chats, config.get("num_return_sequences", 1)
        if self._key and chats is not None and num_answers == 1:
            self._turn = await chats.begin(self._key, self._owner)
        session = None if self._turn is None else self._turn.session
        cached = None if prefix is None else prefix.prefix
        return [
            pipeline.generate(history, session=session, prefix=cached, owner=self._owner, **config)
        ]

    def check(self, answer: Answer) -> None:
        """The answer that is asked for has to fit in behind the conversation."""
        require_room(self._body, answer.num_prompt_tokens, self._pipeline.context_length)

    async def end(self, results: Sequence[DecodedResults] | None) -> None:
        """Keep the session for the next turn."""
        if self._turn is not None:
            text = None if results is None else results[0].texts[0]
            await self._turn.end(self._messages, text)

    def _named_prefix(self) -> NamedPrefix | None:
        if self._body.prefix is None:
            return None
        if self._service.prefixes is None:
            raise loading()
        return self._service.prefixes.get(self._body.prefix, self._owner)
