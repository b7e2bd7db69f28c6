"""A call of a function, and the pieces in which text and calls come out of an answer."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        id: that the function's result will name; empty where nobody has given one.
        name: of the function.
        arguments: JSON as the model wrote it; only a beginning where the answer was cut off.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class TextPiece:
    """Some of the answer's text; never empty."""

    text: str


@dataclass(frozen=True)
class CallBegin:
    """A call whose function is known.

    Attributes:
        index: of the call, from 0.
        id: new, of this call.
        name: of the function.
    """

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """Some of the arguments of call ``index``; never empty."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnd:
    """The arguments of call ``index`` are whole."""

    index: int


Piece: TypeAlias = TextPiece | CallBegin | CallArguments | CallEnd


@dataclass
class Parsed:
    """What of an answer is text, and what are calls.

    Attributes:
        text: without the calls.
        calls: in their order.
        num_whole: calls of which all is there, the last one perhaps not.
    """

    text: str = ""
    calls: list[Call] = field(default_factory=list)
    num_whole: int = 0

    def add(self, pieces: Iterable[Piece]) -> None:
        """Take in what comes next."""
        for piece in pieces:
            match piece:
                case TextPiece(text):
                    self.text += text
                case CallBegin(_, id, name):
                    self.calls.append(Call(id, name, ""))
                case CallArguments(index, text):
                    call = self.calls[index]
                    self.calls[index] = Call(call.id, call.name, call.arguments + text)
                case CallEnd():
                    self.num_whole += 1


def new_call_id() -> str:
    """An id as OpenAI's clients know it."""
    return f"call_{secrets.token_hex(12)}"
