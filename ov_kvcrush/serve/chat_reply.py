"""Answers of ``/chat/completions``: messages of text and calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ov_kvcrush.pipeline.deltas import Delta
from ov_kvcrush.pipeline.results import DecodedResults
from ov_kvcrush.serve.log_probs import ScoredTokens, chat_log_probs
from ov_kvcrush.serve.replies import ChoicesReply, scored
from ov_kvcrush.serve.reply import finish_reason
from ov_kvcrush.serve.tools.call_reader import CallReader, TextReader
from ov_kvcrush.serve.tools.calls import Call, CallArguments, CallBegin, Piece, TextPiece
from ov_kvcrush.serve.tools.use import ToolUse

TOOL_CALLS = "tool_calls"
"""OpenAI's word for the end of an answer that calls."""


@dataclass
class ChatReply(ChoicesReply):
    """The reply to a chat request.

    Attributes:
        tools: that answers may call; None without tools.
    """

    tools: ToolUse | None = None
    _reader: CallReader = field(init=False, repr=False)

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __post_init__(self) -> None:
        self._reader = self._new_reader()

    def first_events(self) -> list[dict[str, Any]]:
        """Whose message it is."""
        return [self._chunk({"delta": {"role": "assistant", "content": ""}}, None, None)]

    def events(self, delta: Delta) -> list[dict[str, Any]]:
        """Pieces of text and of calls; those that may begin a call come when it is certain."""
        tokens = ScoredTokens(delta.token_ids, delta.log_probs, delta.top)
        log_probs = self._log_probs(tokens) if delta.token_ids else None
        return self._chunks(self._reader.feed(delta.text), log_probs)

    def last_events(self, results: DecodedResults) -> list[dict[str, Any]]:
        """What was held back, why the answer has ended, and what it cost."""
        left = self._chunks(self._reader.end(), None)
        self.end = _reason(finish_reason(results.finish_reasons[0]), self._reader.num_calls)
        end = self._chunk({"delta": {}}, None, self.end)
        return [*left, end, *self._usage_events(results)]

    def _choice(self, answer: DecodedResults, place: int) -> dict[str, Any]:
        parsed = self._new_reader().read(answer.texts[place])
        message: dict[str, Any] = {"role": "assistant", "content": parsed.text}
        if parsed.calls:
            message["content"] = parsed.text or None
            message["tool_calls"] = [_call(call) for call in parsed.calls]
        reason = finish_reason(answer.finish_reasons[place])
        return {
            "message": message,
            "logprobs": self._log_probs(scored(answer, place)),
            "finish_reason": _reason(reason, len(parsed.calls)),
        }

    def _log_probs(self, scored: ScoredTokens) -> dict[str, Any] | None:
        if self.num_top is None:
            return None
        return chat_log_probs(scored, self.num_top, self.texts)

    def _new_reader(self) -> CallReader:
        return TextReader() if self.tools is None else self.tools.reader()

    def _chunks(
        self, pieces: Iterable[Piece], log_probs: dict[str, Any] | None
    ) -> list[dict[str, Any]]:
        shown = [delta for piece in pieces if (delta := _delta(piece)) is not None]
        if log_probs is not None and not shown:
            shown = [{"content": ""}]
        # The tokens of a delta are told of once.
        told = [log_probs, *[None] * len(shown)]
        return [
            self._chunk({"delta": one}, of_it, None)
            for one, of_it in zip(shown, told, strict=False)
        ]


def _reason(reason: str, num_calls: int) -> str:
    return TOOL_CALLS if num_calls and reason == "stop" else reason


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _delta(piece: Piece) -> dict[str, Any] | None:
    match piece:
        case TextPiece(text):
            return {"content": text}
        case CallBegin(index, id, name):
            return {"tool_calls": [{"index": index, **_call(Call(id, name, ""))}]}
        case CallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
    return None
