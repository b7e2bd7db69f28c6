"""An answer as items that begin, grow and are done, and the events that tell of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from ov_kvcrush.serve.tools.calls import CallArguments, CallBegin, CallEnd, Piece, TextPiece

Event = dict[str, Any]


class Output:
    """The items of one answer.

    Attributes:
        items: as replies have them; the last one may still grow.
        num_calls: that have begun.
    """

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.num_calls = 0
        self._is_open = False

    def add(self, pieces: Iterable[Piece], log_probs: list[dict[str, Any]]) -> list[Event]:
        """Take in what comes next, and tell it.

        Args:
            pieces: of the answer.
            log_probs: of the tokens in them.
        """
        events: list[Event] = []
        for piece in pieces:
            match piece:
                case TextPiece(text):
                    events += [*self._begin_text(), self._add_text(text, log_probs)]
                    log_probs = []
                case CallBegin(_, id, name):
                    events += [*self._finish("completed"), self._begin_call(id, name)]
                case CallArguments(_, text):
                    self._last["arguments"] += text
                    events.append(self._of_item("function_call_arguments.delta", delta=text))
                case CallEnd():
                    events += self._finish("completed")
        return events

    def end(self, is_whole: bool) -> list[Event]:
        """No more comes; an answer has one item at least.

        Args:
            is_whole: it came to its end by itself.
        """
        begin = [] if self.items else self._begin_text()
        return [*begin, *self._finish("completed" if is_whole else "incomplete")]

    @property
    def _last(self) -> dict[str, Any]:
        return self.items[-1]

    def _begin_text(self) -> list[Event]:
        if self._is_open:
            return []
        message = {
            "id": _new_id("msg"),
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        events = [self._begin(message)]
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._last["content"] = [part]
        return [*events, self._of_part("content_part.added", part=deepcopy(part))]

    def _add_text(self, text: str, log_probs: list[dict[str, Any]]) -> Event:
        part = self._last["content"][0]
        part["text"] += text
        part["logprobs"] += log_probs
        return self._of_part("output_text.delta", delta=text, logprobs=log_probs)

    def _begin_call(self, id: str, name: str) -> Event:
        self.num_calls += 1
        call = {
            "id": _new_id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": id,
            "name": name,
            "arguments": "",
        }
        return self._begin(call)

    def _begin(self, item: dict[str, Any]) -> Event:
        self.items.append(item)
        self._is_open = True
        return self._of_output("output_item.added")

    def _finish(self, status: str) -> list[Event]:
        """Close the item that grows, if one does."""
        if not self._is_open:
            return []
        self._is_open = False
        self._last["status"] = status
        if self._last["type"] == "function_call":
            name, arguments = self._last["name"], self._last["arguments"]
            done = self._of_item("function_call_arguments.done", name=name, arguments=arguments)
            return [done, self._of_output("output_item.done")]
        part = self._last["content"][0]
        return [
            self._of_part("output_text.done", text=part["text"], logprobs=part["logprobs"]),
            self._of_part("content_part.done", part=deepcopy(part)),
            self._of_output("output_item.done"),
        ]

    def _of_output(self, kind: str) -> Event:
        """An event that tells the last item."""
        item = deepcopy(self._last)
        return {"type": f"response.{kind}", "output_index": len(self.items) - 1, "item": item}

    def _of_item(self, kind: str, **told: Any) -> Event:
        """An event of the last item."""
        place = {"item_id": self._last["id"], "output_index": len(self.items) - 1}
        return {"type": f"response.{kind}", **place, **told}

    def _of_part(self, kind: str, **told: Any) -> Event:
        """An event of the last item's text."""
        return self._of_item(kind, content_index=0, **told)


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(24)}"
