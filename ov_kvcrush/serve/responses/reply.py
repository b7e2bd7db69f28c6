"""Answers of ``/responses``: an object, or typed events that end with it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ov_kvcrush.pipeline.deltas import Delta
from ov_kvcrush.pipeline.results import DecodedResults
from ov_kvcrush.serve.chat_reply import TOOL_CALLS
from ov_kvcrush.serve.errors import ApiError
from ov_kvcrush.serve.log_probs import ScoredTokens, chat_log_probs
from ov_kvcrush.serve.replies import scored
from ov_kvcrush.serve.reply import Reply, finish_reason
from ov_kvcrush.serve.responses.output import Event, Output
from ov_kvcrush.serve.responses.request import ResponsesRequest
from ov_kvcrush.serve.token_texts import TokenTexts
from ov_kvcrush.serve.tools.call_reader import CallReader, TextReader
from ov_kvcrush.serve.tools.fields import ToolChoice
from ov_kvcrush.serve.tools.use import ToolUse
from ov_kvcrush.serve.usage import costs, usage


@dataclass
class ResponsesReply(Reply):
    """The reply to one request.

    Args:
        request: what is asked for.
        num_top: tokens to be told in place of each; None where no log probabilities are wanted.
        model: name of the model, as it is answered.
        texts: of the vocabulary.
        tools: that the answer may call; None without tools.

    Attributes:
        id: of it.
        created: ``time.time()`` in whole seconds.
    """

    request: ResponsesRequest
    num_top: int | None
    model: str
    texts: TokenTexts
    tools: ToolUse | None = None
    id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(24)}")
    created: int = field(default_factory=lambda: int(time.time()))

    ends_with_done = False

    def __post_init__(self) -> None:
        self._reader: CallReader = TextReader() if self.tools is None else self.tools.reader()
        self._output = Output()
        self._num_events = 0
        self._untold: list[dict[str, Any]] = []

    def whole(self, answers: Sequence[DecodedResults]) -> dict[str, Any]:
        """The reply at once; its request has one prompt and one answer."""
        (results,) = answers
        self._output.add(self._reader.feed(results.texts[0]), self._log_probs(scored(results, 0)))
        return self._ended(results)[1]

    def first_events(self) -> list[Event]:
        """That it has begun."""
        response = self._response("in_progress", None)
        kinds = ("response.created", "response.in_progress")
        return self._numbered({"type": kind, "response": response} for kind in kinds)

    def events(self, delta: Delta) -> list[Event]:
        """Items that begin, grow, and are done with ``delta``."""
        self._untold += self._log_probs(ScoredTokens(delta.token_ids, delta.log_probs, delta.top))
        pieces = self._reader.feed(delta.text)
        if not pieces:
            return []
        told, self._untold = self._untold, []
        return self._numbered(self._output.add(pieces, told))

    def last_events(self, results: DecodedResults) -> list[Event]:
        """The rest of the items, and the whole reply."""
        events, response = self._ended(results)
        return self._numbered(
            [*events, {"type": f"response.{response['status']}", "response": response}]
        )

    def error_event(self, error: ApiError) -> Event:
        """What ends a stream that has begun: as the typed event, and as clients raise it."""
        detail = error.body["error"]
        told = {name: detail[name] for name in ("code", "message", "param")}
        (event,) = self._numbered([{"type": "error", **told, **error.body}])
        return event

    def _ended(self, results: DecodedResults) -> tuple[list[Event], dict[str, Any]]:
        """The events of the end, and the whole reply."""
        reason = finish_reason(results.finish_reasons[0])
        is_whole = reason == "stop"
        events = self._output.add(self._reader.end(), self._untold)
        events += self._output.end(is_whole)
        self.end = TOOL_CALLS if is_whole and self._output.num_calls else reason
        return events, self._response("completed" if is_whole else "incomplete", results)

    def _response(self, status: str, results: DecodedResults | None) -> dict[str, Any]:
        request = self.request
        body = {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": (
                {"reason": "max_output_tokens"} if status == "incomplete" else None
            ),
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self.model,
            "output": [] if results is None else self._output.items,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "prompt_cache_key": request.prompt_cache_key,
            "reasoning": {
                "effort": None if request.reasoning is None else request.reasoning.effort,
                "summary": None,
            },
            "store": False,
            "temperature": request.temperature,
            "text": {"format": request.format.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": _choice(request.tool_choice),
            "tools": [_tool(tool.model_dump()) for tool in request.tools or []],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": request.top_p,
            "truncation": "disabled",
            "usage": None if results is None else _usage(results),
        }
        return body if results is None else {**body, "ov_kvcrush": costs([results])}

    def _log_probs(self, tokens: ScoredTokens) -> list[dict[str, Any]]:
        if self.num_top is None:
            return []
        content: list[dict[str, Any]] = chat_log_probs(tokens, self.num_top, self.texts)["content"]
        return content

    def _numbered(self, events: Any) -> list[Event]:
        numbered = []
        for event in events:
            numbered.append({**event, "sequence_number": self._num_events})
            self._num_events += 1
        return numbered


def _choice(choice: ToolChoice | None) -> Any:
    """As the request has it."""
    choice = choice or ToolChoice()
    if choice.names is None:
        return choice.mode
    named = [{"type": "function", "name": name} for name in choice.names]
    if choice.is_one:
        return named[0]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": named}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {**tool, "strict": bool(tool["strict"])}


def _usage(results: DecodedResults) -> dict[str, Any]:
    counted = usage([results])
    cached = counted["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": counted["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": cached,
            "cache_write_tokens": counted["prompt_tokens"] - cached,
        },
        "output_tokens": counted["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counted["total_tokens"],
    }
