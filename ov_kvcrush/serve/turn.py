"""One more message of a conversation: how the pipeline is asked for it, and whose cache it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import Request
from openvino_genai import ChatHistory

from ov_kvcrush.serve.errors import ApiError, invalid, loading
from ov_kvcrush.serve.messages import chat_history
from ov_kvcrush.serve.sampling import generation_settings, require_room
from ov_kvcrush.serve.schemas import ChatRequest
from ov_kvcrush.serve.service import Service
from ov_kvcrush.serve.tools.use import ToolUse

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.answer import Answer
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline
    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
    from ov_kvcrush.pipeline.results import DecodedResults
    from ov_kvcrush.serve.chats import ChatTurn

SESSION_HEADER = "x-session-id"
"""Names the conversation a request belongs to; before what its body says."""

_LONGEST_KEY = 512
_GRAMMAR = "structured_output_config"


class Turn:
    """A :class:`Question` whose cache is found by its session's key, or by how it begins.

    Args:
        service: of the server.
        request: HTTP's, whose headers and API key count.
        body: what it asks for.
        names: that the client has for fields of ``body``, where they are others.

    Attributes:
        tools: that the answer may call; None without tools.
        form_field: says what form the answer has.

    Raises:
        ApiError: the server cannot answer now, or not such a request.
    """

    def __init__(
        self,
        service: Service,
        request: Request,
        body: ChatRequest,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._service = service
        self._pipeline: AsyncLLMPipeline = service.usable_pipeline()
        service.require_model(body.model)
        self._body = body
        self._owner: str = request.state.record.key
        self._key = request.headers.get(SESSION_HEADER, "") or body.session_key
        if len(self._key) > _LONGEST_KEY:
            raise invalid(f"a session's key has at most {_LONGEST_KEY} characters", SESSION_HEADER)
        self.tools: ToolUse | None = service.tools.use(
            body.tool_functions,
            body.tool_choice,
            parallel=body.parallel_tool_calls,
            has_no_end=bool(body.ignore_eos or body.min_tokens),
        )
        self._names = names or {}
        form = self._names.get("response_format", "response_format")
        self.form_field = form if self.tools is None else "tools"
        self._turn: ChatTurn | None = None
        self._messages: list[dict[str, Any]] = []

    async def ask(self) -> Sequence[Answer]:
        """Queue the answer."""
        try:
            return await self._ask()
        except ApiError as error:
            error.param = self._names.get(error.param or "", error.param)
            raise

    async def _ask(self) -> Sequence[Answer]:
        pipeline, body, settings = self._pipeline, self._body, self._service.settings
        history = chat_history(body, settings, self._service.tools.style)
        config = generation_settings(
            body, pipeline.get_generation_config(), settings, pipeline.context_length
        )
        if self.tools is not None:
            grammar = self.tools.grammar(config.pop(_GRAMMAR, None))
            if grammar is not None:
                config[_GRAMMAR] = grammar
        prefix = self._begin_with_prefix(history)
        self._messages = history.get_messages()
        chats = self._service.chats
        # A session has one continuation.
        if self._key and chats is not None and config.get("num_return_sequences", 1) == 1:
            self._turn = await chats.begin(self._key, self._owner)
        session = None if self._turn is None else self._turn.session
        return [
            pipeline.generate(history, session=session, prefix=prefix, owner=self._owner, **config)
        ]

    def check(self, answer: Answer) -> None:
        """The answer that is asked for has to fit in behind the conversation."""
        require_room(self._body, answer.num_prompt_tokens, self._pipeline.context_length)

    async def end(self, results: Sequence[DecodedResults] | None) -> None:
        """Keep the session for the next turn."""
        if self._turn is not None:
            text = None if results is None else results[0].texts[0]
            await self._turn.end(self._messages, text)

    def _begin_with_prefix(self, history: ChatHistory) -> CachedPrefix | None:
        """The cache of the prefix that the request names, whose text ``history`` then begins with.

        Raises:
            ApiError: there is not one, or the conversation cannot follow it.
        """
        if self._body.prefix is None:
            return None
        if self.tools is not None:
            raise invalid(
                "a prefix was read without tools, which stand before it\nLeave out one of the two.",
                "tools",
            )
        if self._service.prefixes is None:
            raise loading()
        named = self._service.prefixes.get(self._body.prefix, self._owner)
        messages, context = named.begin(history.get_messages()), history.get_extra_context()
        history.clear()  # of the context too
        for message in messages:
            history.append(message)
        history.set_extra_context(context)
        return named.prefix
