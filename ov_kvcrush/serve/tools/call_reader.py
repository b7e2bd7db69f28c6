"""Readers of answers: text in pieces of any size goes in, text and calls come out.

What comes out does not depend on how the text was divided.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

from ov_kvcrush.serve.tools.calls import (
    CallArguments,
    CallBegin,
    CallEnd,
    Parsed,
    Piece,
    TextPiece,
    new_call_id,
)


class CallReader(ABC):
    """Reads one answer. What begins like a call and is not one is text.

    Attributes:
        num_calls: that have begun.
    """

    def __init__(self) -> None:
        self.num_calls = 0

    @abstractmethod
    def feed(self, text: str) -> list[Piece]:
        """What is certain now that ``text`` has come."""

    @abstractmethod
    def end(self) -> list[Piece]:
        """What is left: no more comes."""

    def read(self, answer: str) -> Parsed:
        """A whole ``answer``; nothing may have been fed before."""
        parsed = Parsed()
        parsed.add(self.feed(answer))
        parsed.add(self.end())
        return parsed

    def _begin(self, name: str, is_bare: bool = False) -> CallBegin:
        self.num_calls += 1
        return CallBegin(self.num_calls - 1, new_call_id(is_bare), name)

    def _whole(self, name: str, arguments: str, is_bare: bool = False) -> list[Piece]:
        begin = self._begin(name, is_bare)
        return [begin, CallArguments(begin.index, arguments), CallEnd(begin.index)]


class SteppingReader(CallReader):
    """Reads in steps: each takes some of what waits, and says which is the next.

    Args:
        read: the first step. A step gives pieces, or None where it waits for more.
    """

    def __init__(self, read: Callable[[], list[Piece] | None]) -> None:
        super().__init__()
        self._waiting = ""
        self._read = read

    def feed(self, text: str) -> list[Piece]:
        """What is certain now that ``text`` has come."""
        self._waiting += text
        pieces: list[Piece] = []
        while self._waiting and (found := self._read()) is not None:
            pieces += found
        return pieces


class TextReader(CallReader):
    """Reads answers that call nothing."""

    def feed(self, text: str) -> list[Piece]:
        """All of it."""
        return text_piece(text)

    def end(self) -> list[Piece]:
        """Nothing."""
        return []


def text_piece(text: str) -> list[Piece]:
    """``text`` as a piece, if there is any."""
    return [TextPiece(text)] if text else []


def held_back(text: str, openings: Collection[str]) -> int:
    """Characters at the end of ``text`` that one of ``openings`` may begin with."""
    firsts = {opening[0] for opening in openings}
    longest = max(map(len, openings))
    for start in range(max(0, len(text) - longest), len(text)):
        if text[start] in firsts and any(one.startswith(text[start:]) for one in openings):
            return len(text) - start
    return 0
