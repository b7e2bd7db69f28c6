"""A call of a function, and the pieces in which text and calls come out of an answer."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
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


_ID = "call_"

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


def new_call_id(is_bare: bool = False) -> str:
    """An id as OpenAI's clients know it.

    Clients give it back with the call, so it can say of it what no field does.

    Args:
        is_bare: the call was written without the marks of its style.
    """
    drawn = secrets.token_hex(10)
    return f"{_ID}{drawn}{_mark_of(drawn) if is_bare else secrets.token_hex(2)}"


def is_bare(id: str) -> bool:
    """Whether the call with ``id`` was written without marks; of 65,536 others one is, too."""
    drawn = id.removeprefix(_ID)[:-4]
    return len(id) == len(_ID) + 24 and id.endswith(_mark_of(drawn))


def _mark_of(drawn: str) -> str:
    return blake2b(drawn.encode(errors="replace"), digest_size=2, person=b"bare call").hexdigest()
