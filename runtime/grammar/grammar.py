"""``Grammar``: what an answer may be, as a value that is given with a request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from ov_kvcrush.errors import GrammarError

if TYPE_CHECKING:
    from openvino_genai import StructuredOutputConfig

MAX_GRAMMAR_BYTES = 256 * 1024
"""Of the text of a grammar."""

_SPELLING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarKind(str, Enum):
    """How the text of a grammar is to be read."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "grammar"


@dataclass(frozen=True)
class Grammar:
    """What an answer may be. Whether it can be served is told when it is built for a model.

        pipeline.generate(text, structured_output_config=Grammar.json_schema(schema))

    JSON is written as Python's ``json.dumps`` writes it: one blank behind a comma or a colon and
    nothing else between values. Where blanks are free a sampled answer need not come to its end;
    and most chat templates spell it so again in the next turn, whose cached beginning it then is.

    Attributes:
        kind: how ``text`` is to be read.
        text: a JSON Schema, a regular expression, or a grammar: in llguidance's form of Lark or of
            JSON, or in EBNF (GBNF).
    """

    kind: GrammarKind
    text: str

    def __post_init__(self) -> None:
        """Refuse what is too large, or is not text.

        Raises:
            GrammarError: as said.
        """
        try:
            size = len(self.text.encode())
        except UnicodeEncodeError as error:
            raise GrammarError(
                f"the {self.name} has half a character at position {error.start}"
            ) from None
        if size > MAX_GRAMMAR_BYTES:
            raise GrammarError(
                f"the {self.name} has {size:,} bytes, and at most {MAX_GRAMMAR_BYTES:,} are taken"
            )

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str) -> Grammar:
        """A JSON value that ``schema`` allows.

        Args:
            schema: a JSON Schema, as an object or as its text.

        Raises:
            GrammarError: it is not JSON, or too large.
        """
        return cls(GrammarKind.JSON_SCHEMA, schema if isinstance(schema, str) else _dumps(schema))

    @classmethod
    def json_object(cls) -> Grammar:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """A text that the whole of ``pattern`` matches, in the syntax of Rust's ``regex``."""
        return cls(GrammarKind.REGEX, pattern)

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """A text that the rule ``start`` of a grammar derives.

        Args:
            text: in llguidance's form of Lark; or llguidance's JSON object of several grammars.
        """
        return cls(GrammarKind.GRAMMAR, text)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Grammar:
        """One of ``texts``."""
        return cls.lark(f"start: {' | '.join(map(lark_string, texts))}\n")

    @property
    def name(self) -> str:
        """What it is, for a sentence."""
        return {
            GrammarKind.JSON_SCHEMA: "JSON schema",
            GrammarKind.REGEX: "regular expression",
            GrammarKind.GRAMMAR: "grammar",
        }[self.kind]

    def to_config(self) -> StructuredOutputConfig:
        """As a ``GenerationConfig`` carries it."""
        from openvino_genai import StructuredOutputConfig

        return StructuredOutputConfig(**{self.kind.value: self.text})


def lark_json(schema: Mapping[str, Any]) -> str:
    """What stands in a Lark grammar for a JSON value that ``schema`` allows.

    It is spelled as :class:`Grammar` says.

    Raises:
        GrammarError: it is not JSON.
    """
    return "%json " + _dumps(spelled(schema))


def lark_string(text: str) -> str:
    """What stands in a Lark grammar for ``text`` itself; not for an empty one."""
    return json.dumps(text)


def spelled(schema: Mapping[str, Any]) -> dict[str, Any]:
    """``schema`` for llguidance, with the blanks that JSON is written with here."""
    return {**schema, "x-guidance": _SPELLING}


def _dumps(schema: object) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise GrammarError(f"the JSON schema is not JSON: {error}") from None
