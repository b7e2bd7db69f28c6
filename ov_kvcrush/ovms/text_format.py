"""Protobuf's text format, as far as a graph of OpenVINO Model Server needs it: written, not read.

From the language's specification (protobuf.dev, "Text Format Language Specification").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

_PRINTABLE = range(0x20, 0x7F)
_INDENT = "  "


class Word(str):
    """A value of an enumeration, which stands there without quotes."""


Value: TypeAlias = "str | bool | int | Word | Sequence[Field]"
"""Of a field: a text, a number, a word, or the fields of a message."""

Field: TypeAlias = tuple[str, Value]
"""Name and value; a repeated field comes several times."""


def to_text(fields: Sequence[Field]) -> str:
    """A message in the text format, a field a line."""
    return "".join(f"{line}\n" for line in _lines(fields))


def _lines(fields: Sequence[Field]) -> Iterator[str]:
    for name, value in fields:
        if isinstance(value, (str, int)):
            yield f"{name}: {_scalar(value)}"
            continue
        yield f"{name} {{"
        yield from (f"{_INDENT}{line}" for line in _lines(value))
        yield "}"


def _scalar(value: str | int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (Word, int)):
        return str(value)
    return f'"{"".join(map(_escaped, value.encode("utf-8", "surrogateescape")))}"'


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return f"\\{byte:c}"
    return chr(byte) if byte in _PRINTABLE else f"\\{byte:03o}"
