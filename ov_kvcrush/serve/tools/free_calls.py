"""Calls in answers that no grammar keeps to a style: read when they are whole, however spelled."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any

from ov_kvcrush.serve.tools.call_reader import CallReader, held_back, text_piece
from ov_kvcrush.serve.tools.calls import Piece
from ov_kvcrush.serve.tools.object_scanner import ObjectScanner
from ov_kvcrush.serve.tools.style import ToolStyle

_KEYS = ("arguments", "parameters")
_HEAD = re.compile(r'\{\s*"name"\s*:\s*"[^"\\]*"\s*,\s*"(?:arguments|parameters)"\s*:\s*')


class MarkedCallReader(CallReader):
    """Reads answers in which each call stands between marks, behind text or not.

    Args:
        style: of the template; blanks in it may be others.
        names: functions that may be called.
        most: calls that are read; None reads all.
    """

    def __init__(self, style: ToolStyle, names: Collection[str], most: int | None = None) -> None:
        super().__init__()
        self._names = names
        self._most = most
        self._begin_mark, self._end_mark = style.begin.strip(), style.end.strip()
        between = (style.between or "").strip()
        # Where calls are not marked one by one, it separates them.
        self._separator = "" if self._begin_mark in between else between
        self._before = style.before or ""
        self._openings = [self._begin_mark, self._before + self._begin_mark]
        self._waiting = ""
        self._withheld = ""
        self._scanner = ObjectScanner()
        self._blanks = ""
        self._object = ""
        self._is_behind_call = False
        self._read: Callable[[], list[Piece] | None] = self._read_text

    def feed(self, text: str) -> list[Piece]:
        """What is certain now that ``text`` has come."""
        self._waiting += text
        pieces: list[Piece] = []
        while self._waiting and (found := self._read()) is not None:
            pieces += found
        return pieces

    def end(self) -> list[Piece]:
        """What is left: no more comes."""
        pieces: list[Piece] = []
        if self._read == self._read_behind:
            left = self._waiting.strip()
            if self._end_mark.startswith(left):
                self._waiting = ""
            self._read, self._is_behind_call = self._read_text, True
        while self._read != self._read_text:
            pieces += [*self._give_up(), *self.feed("")]
        left, self._waiting = self._waiting, ""
        return [*pieces, *self._text(left)]

    # Each gives pieces, or None where it waits for more.

    def _read_text(self) -> list[Piece] | None:
        place = self._waiting.find(self._begin_mark)
        if place < 0:
            count = len(self._waiting) - held_back(self._waiting, self._openings)
            text, self._waiting = self._waiting[:count], self._waiting[count:]
            return self._text(text) if text else None
        text, self._waiting = self._waiting[:place], self._waiting[place + len(self._begin_mark) :]
        shown = text.removesuffix(self._before)
        self._withheld = text[len(shown) :] + self._begin_mark
        self._expect_object()
        return self._text(shown)

    def _read_object(self) -> list[Piece] | None:
        if not self._object:
            left = self._waiting.lstrip()
            if not left:
                return None
            if left[0] != "{":
                return self._give_up()
            self._blanks = self._waiting[: len(self._waiting) - len(left)]
            self._waiting = left
        count = self._scanner.feed(self._waiting)
        self._object += self._waiting[:count]
        self._waiting = self._waiting[count:]
        if not self._scanner.has_ended:
            return None
        call = read_call(self._object, self._names)
        if call is None:
            return self._give_up()
        self._read = self._read_behind
        if self._most is not None and self.num_calls >= self._most:
            return []
        return self._whole(*call)

    def _read_behind(self) -> list[Piece] | None:
        """A call's end, a separator, or neither."""
        left = self._waiting.lstrip()
        for mark in filter(None, (self._separator, self._end_mark)):
            if left.startswith(mark):
                self._waiting = left[len(mark) :]
                if mark == self._separator:
                    self._withheld = mark
                    self._expect_object()
                else:
                    self._read, self._is_behind_call = self._read_text, True
                return []
        if any(mark.startswith(left) for mark in (self._separator, self._end_mark) if mark):
            return None
        self._read, self._is_behind_call = self._read_text, True
        return []

    def _expect_object(self) -> None:
        self._scanner, self._blanks, self._object = ObjectScanner(), "", ""
        self._read = self._read_object

    def _give_up(self) -> list[Piece]:
        """The mark was text; what came behind it is read once more."""
        text, self._withheld = self._withheld, ""
        self._waiting = self._blanks + self._object + self._waiting
        self._read = self._read_text
        return self._text(text)

    def _text(self, text: str) -> list[Piece]:
        """Text; the blanks between calls and behind the last are not."""
        if self._is_behind_call:
            text = text.lstrip()
            self._is_behind_call = not text
        return text_piece(text)


class WholeCallReader(CallReader):
    """Reads answers that are calls from the first to the last character, or text.

    Args:
        names: functions that may be called.
        most: calls that are read; None reads all.
    """

    def __init__(self, names: Collection[str], most: int | None = None) -> None:
        super().__init__()
        self._names = names
        self._most = most
        self._waiting = ""
        self._is_text = False

    def feed(self, text: str) -> list[Piece]:
        """What is certain now that ``text`` has come."""
        if self._is_text:
            return text_piece(text)
        self._waiting += text
        begin = self._waiting.lstrip()[:1]
        if begin in ("", "{"):
            return []
        self._is_text = True
        return text_piece(self._waiting)

    def end(self) -> list[Piece]:
        """What is left: no more comes."""
        if self._is_text:
            return []
        calls, text = self._read()
        pieces = text_piece(text)
        for call in calls[: self._most]:
            pieces += self._whole(*call)
        return pieces

    def _read(self) -> tuple[list[tuple[str, str]], str]:
        """Names and arguments of calls, and the text."""
        answer = self._waiting.strip()
        only = read_call(answer, self._names)
        if only is not None:
            return [only], ""
        read = _loads(answer)
        listed = read.get("tool_calls") if isinstance(read, dict) else None
        if not isinstance(read, dict) or not isinstance(listed, list) or not listed:
            return [], self._waiting
        # Each as it is spelled.
        calls = [read_call(spelled, self._names) for spelled in _spelled_objects(answer)]
        if len(calls) != len(listed) or None in calls:
            return [], self._waiting
        content = read.get("content")
        text = content if isinstance(content, str) else ""
        return [call for call in calls if call is not None], text


def read_call(spelled: str, names: Collection[str]) -> tuple[str, str] | None:
    """Name and arguments of the call that a JSON object is; None where it is not one.

    Arguments are as they are spelled, where they stand behind the name, as a template has them;
    none are ``{}``.

    Args:
        spelled: the object.
        names: functions that may be called.
    """
    read = _loads(spelled)
    if not isinstance(read, dict):
        return None
    name, values = read.get("name"), [read[key] for key in _KEYS if key in read]
    if name not in names or len(values) > 1:
        return None
    arguments: Any = values[0] if values else {}
    if isinstance(arguments, str):  # JSON in JSON
        return (name, arguments) if isinstance(_loads(arguments), dict) else None
    if not isinstance(arguments, dict):
        return None
    head = _HEAD.match(spelled)
    if head is None:
        return name, json.dumps(arguments, ensure_ascii=False)
    scanner = ObjectScanner()
    return name, spelled[head.end() :][: scanner.feed(spelled[head.end() :])]


def _spelled_objects(answer: str) -> list[str]:
    """The objects of the list behind ``"tool_calls":``."""
    _, _, rest = answer.partition('"tool_calls"')
    objects: list[str] = []
    rest = rest.partition("[")[2].lstrip()
    while rest.startswith("{"):
        scanner = ObjectScanner()
        count = scanner.feed(rest)
        objects.append(rest[:count])
        rest = rest[count:].lstrip().removeprefix(",").lstrip()
    return objects


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
