"""Calls in answers that a grammar keeps to a style: arguments come out as they are written."""

from __future__ import annotations

from collections.abc import Sequence

from ov_kvcrush.serve.tools.call_reader import SteppingReader, held_back, text_piece
from ov_kvcrush.serve.tools.calls import CallArguments, CallEnd, Piece, TextPiece
from ov_kvcrush.serve.tools.object_scanner import ObjectScanner
from ov_kvcrush.serve.tools.style import ToolStyle


class ExactCallReader(SteppingReader):
    """Reads answers of a style, character by character as it spells them.

    Args:
        style: of the template.
        names: functions that may be called.
    """

    def __init__(self, style: ToolStyle, names: Sequence[str]) -> None:
        super().__init__(self._read_beginning)
        self._is_marked = style.is_marked
        before = style.before or ""
        # By what opens a call: the blanks before it that are not text, and its function.
        self._first = {style.lead + style.begin + style.head(n): (0, n) for n in names}
        self._behind_text = {
            before + style.begin + style.head(name): (len(before), name) for name in names
        }
        between = style.between
        self._next = {} if between is None else {f"}}{between}{style.head(n)}": n for n in names}
        self._close = f"}}{style.end}"
        self._scanner = ObjectScanner()

    def end(self) -> list[Piece]:
        """What is left: no more comes."""
        left, self._waiting = self._waiting, ""
        if self._read == self._read_behind:  # what a call ends or the next begins with
            left = ""
        return text_piece(left)

    def _read_beginning(self) -> list[Piece] | None:
        """An answer that may be a call from its beginning on."""
        openings = {**self._first, **self._behind_text}
        for opening, (_, name) in openings.items():
            if self._waiting.startswith(opening):
                return self._open(len(opening), name)
        if any(opening.startswith(self._waiting) for opening in openings):
            return None
        self._read = self._read_text if self._is_marked else self._read_rest
        return []

    def _read_text(self) -> list[Piece] | None:
        """Text that calls may follow."""
        found = [
            (place, num_before, len(opening), name)
            for opening, (num_before, name) in self._behind_text.items()
            if (place := self._waiting.find(opening)) >= 0
        ]
        if found:
            place, _, length, name = min(found)
            return [*text_piece(self._waiting[:place]), *self._open(place + length, name)]
        count = len(self._waiting) - held_back(self._waiting, self._behind_text)
        text, self._waiting = self._waiting[:count], self._waiting[count:]
        return text_piece(text) if text else None

    def _read_rest(self) -> list[Piece]:
        """Text that nothing follows."""
        text, self._waiting = self._waiting, ""
        return [TextPiece(text)]

    def _read_arguments(self) -> list[Piece]:
        count = self._scanner.feed(self._waiting)
        text, self._waiting = self._waiting[:count], self._waiting[count:]
        pieces: list[Piece] = [CallArguments(self.num_calls - 1, text)]
        if self._scanner.has_ended:
            pieces.append(CallEnd(self.num_calls - 1))
            self._read = self._read_behind
        return pieces

    def _read_behind(self) -> list[Piece] | None:
        """What stands behind a call's arguments."""
        for opening, name in self._next.items():
            if self._waiting.startswith(opening):
                return self._open(len(opening), name)
        if any(one.startswith(self._waiting) for one in (*self._next, self._close)):
            return None
        self._waiting = self._waiting.removeprefix(self._close)
        self._read = self._read_text if self._is_marked else self._read_rest
        return []

    def _open(self, count: int, name: str) -> list[Piece]:
        self._waiting = self._waiting[count:]
        self._scanner, self._read = ObjectScanner(), self._read_arguments
        return [self._begin(name)]
