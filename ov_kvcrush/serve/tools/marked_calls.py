"""Calls between marks in answers that no grammar keeps to a style: read when they are whole."""

from __future__ import annotations

from collections.abc import Collection

from ov_kvcrush.serve.tools.call_object import read_call
from ov_kvcrush.serve.tools.call_reader import SteppingReader, held_back, text_piece
from ov_kvcrush.serve.tools.calls import Piece
from ov_kvcrush.serve.tools.object_scanner import ObjectScanner
from ov_kvcrush.serve.tools.style import ToolStyle


class MarkedCallReader(SteppingReader):
    """Reads answers in which each call stands between marks, behind text or not.

    Args:
        style: of the template; blanks in it may be others.
        names: functions that may be called.
        most: calls that are read; None reads all.
    """

    def __init__(self, style: ToolStyle, names: Collection[str], most: int | None = None) -> None:
        super().__init__(self._read_text)
        self._names = names
        self._most = most
        self._begin_mark, self._end_mark = style.begin.strip(), style.end.strip()
        between = (style.between or "").strip()
        # Where calls are not marked one by one, it separates them.
        self._separator = "" if self._begin_mark in between else between
        self._before = style.before or ""
        self._openings = [self._begin_mark, self._before + self._begin_mark]
        self._withheld = ""
        self._scanner = ObjectScanner()
        self._blanks = ""
        self._object = ""
        self._is_behind_call = False

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
