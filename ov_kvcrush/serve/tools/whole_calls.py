"""Calls in answers that are calls from the first to the last character, or text."""

from __future__ import annotations

import re
from collections.abc import Collection

from ov_kvcrush.serve.tools.call_object import loads, may_be_call, read_call
from ov_kvcrush.serve.tools.call_reader import CallReader, TextReader, text_piece
from ov_kvcrush.serve.tools.calls import Call, Piece
from ov_kvcrush.serve.tools.object_scanner import ObjectScanner
from ov_kvcrush.serve.tools.style import ToolStyle

# Models that were trained on prose put JSON between these.
_FENCE, _LANGUAGE = "```", "json"
_FENCED = re.compile(rf"{_FENCE}(?:{_LANGUAGE})?\s*(.*?)\s*{_FENCE}", re.DOTALL)
_LISTED = re.compile(r'"tool_calls"\s*:\s*\[\s*')


class WholeCallReader(CallReader):
    """Reads answers that are held back as long as they may be calls.

    Args:
        names: functions that may be called.
        most: calls that are read; None reads all.
        otherwise: reads answers that are not; None takes them for text.
        style: whose marks the calls have to do without; None where it has none.
    """

    def __init__(
        self,
        names: Collection[str],
        most: int | None = None,
        otherwise: CallReader | None = None,
        style: ToolStyle | None = None,
    ) -> None:
        super().__init__()
        self._names = names
        self._most = most
        self._otherwise = otherwise or TextReader()
        self._style = style
        self._waiting = ""
        self._is_held = True

    def feed(self, text: str) -> list[Piece]:
        """What is certain now that ``text`` has come."""
        if not self._is_held:
            return self._not_held(self._otherwise.feed(text))
        self._waiting += text
        if self._may_be_calls():
            return []
        self._is_held = False
        return self._not_held(self._otherwise.feed(self._waiting))

    def end(self) -> list[Piece]:
        """What is left: no more comes."""
        if not self._is_held:
            return self._not_held(self._otherwise.end())
        found = self._read()
        if found is None:
            pieces = [*self._otherwise.feed(self._waiting), *self._otherwise.end()]
            return self._not_held(pieces)
        calls, text = found
        pieces = text_piece(text)
        is_bare = self._is_bare(calls[: self._most])
        for call in calls[: self._most]:
            pieces += self._whole(*call, is_bare)
        return pieces

    def _is_bare(self, calls: list[tuple[str, str]]) -> bool:
        """Whether the answer is again what they are when they are spelled without marks."""
        if self._style is None:
            return False
        return self._waiting == self._style.spell_bare([Call("", *call) for call in calls])

    def _not_held(self, pieces: list[Piece]) -> list[Piece]:
        self.num_calls = self._otherwise.num_calls
        return pieces

    def _may_be_calls(self) -> bool:
        beginning = self._waiting.lstrip()
        if _FENCE.startswith(beginning[: len(_FENCE)]):
            beginning = beginning[len(_FENCE) :].lstrip()
            if _LANGUAGE.startswith(beginning[: len(_LANGUAGE)]):
                beginning = beginning[len(_LANGUAGE) :].lstrip()
        if not beginning:
            return True
        return beginning[0] == "{" and may_be_call(beginning, self._names)

    def _read(self) -> tuple[list[tuple[str, str]], str] | None:
        """Names and arguments of the calls that the answer is, and a text beside them."""
        answer = self._waiting.strip()
        if (fenced := _FENCED.fullmatch(answer)) is not None:
            answer = fenced[1]
        calls, rest = _calls_at(answer, self._names)
        if calls and not rest:
            return calls, ""
        read = loads(answer)
        listed = read.get("tool_calls") if isinstance(read, dict) else None
        begin = _LISTED.search(answer)
        if not isinstance(listed, list) or not listed or begin is None:
            return None
        calls, _ = _calls_at(answer[begin.end() :], self._names)
        if len(calls) != len(listed):
            return None
        content = read.get("content")
        return calls, content if isinstance(content, str) else ""


def _calls_at(text: str, names: Collection[str]) -> tuple[list[tuple[str, str]], str]:
    """The calls that ``text`` begins with, and what follows them."""
    calls = []
    while text.startswith("{"):
        scanner = ObjectScanner()
        count = scanner.feed(text)
        call = read_call(text[:count], names) if scanner.has_ended else None
        if call is None:
            break
        calls.append(call)
        text = text[count:].lstrip().removeprefix(",").lstrip()
    return calls, text
