"""What an answer with tools may be, as a grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ov_kvcrush.runtime.grammar.grammar import Grammar, lark_json, lark_string
from ov_kvcrush.serve.tools.fields import FunctionDefinition
from ov_kvcrush.serve.tools.style import ToolStyle

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_ANY = "(?s:.*)"

MAX_CALLS = 16
"""Calls in an answer: a small model that has begun to call may find no end."""


class AnswerForms:
    """Grammars for answers of a style.

    Marks that are tokens of the tokenizer are written as these tokens and not as pieces of them:
    so they stand in prompts, whose cached beginning the answer will be.

    Args:
        style: of the template.
        tokens: ids of the tokens that ``style`` spells, by spelling.
    """

    def __init__(self, style: ToolStyle, tokens: Mapping[str, int]) -> None:
        self._style = style
        self._tokens = tokens

    def calls(self, functions: Sequence[FunctionDefinition], at_most_one: bool) -> Grammar:
        """An answer of calls and nothing else.

        Args:
            functions: one at least; which of them may be called.
            at_most_one: call.
        """
        begin = self._style.lead + self._style.begin
        return _grammar(["start: calls", *self._calls(begin, functions, at_most_one)])

    def text_or_calls(
        self,
        functions: Sequence[FunctionDefinition],
        at_most_one: bool,
        answer: Grammar | None = None,
    ) -> Grammar:
        """A text, calls, or both; for styles that mark calls.

        Args:
            functions: none where nothing may be called; then no text begins a call either.
            at_most_one: call.
            answer: what an answer without calls may be, a JSON schema; None for any text.
        """
        begin, before = self._style.begin, self._style.before
        mark = begin.strip()
        marked = _ANY + _pattern(mark)
        text = f"TEXT: /{_ANY}/ & ~/{marked}{_ANY}/"
        if not functions:
            return _grammar(["start: TEXT", text])
        rest = begin[begin.index(mark) + len(mark) :]
        calls = self._calls(rest, functions, at_most_one)
        if answer is not None:
            schema = lark_json(json.loads(answer.text))
            start = f"start: answer | {self._terms(self._style.lead + mark)} calls"
            return _grammar([start, f"answer: {schema}", *calls])
        start = "start: TEXT | marked calls"
        lead = f"{_ANY}{_pattern(before)}" if before else _ANY
        if self._style.lead:
            lead = f"{_pattern(self._style.lead)}|{lead}"
        may_lead = "" if self._style.lead else "?"
        if mark in self._tokens:
            rules = [
                start,
                text,
                f"marked: LEAD{may_lead} {self._terms(mark)}",
                f"LEAD: /{lead}/ & ~/{marked}{_ANY}/",
            ]
        else:
            # The first mark counts, and stands where the style has it or not at all.
            first = f"marked[lazy]: /({lead}){may_lead}{_pattern(mark)}/ & ~/{marked}(?s:.+)/"
            rules = [start, text, first]
        return _grammar([*rules, *calls])

    def _calls(
        self, begin: str, functions: Sequence[FunctionDefinition], at_most_one: bool
    ) -> list[str]:
        """Rules of ``calls``, which begin with ``begin``."""
        style = self._style
        can_repeat = style.between is not None and not at_most_one
        more = (
            f"({self._terms('}' + (style.between or ''))} call){{0,{MAX_CALLS - 1}}}"
            if can_repeat
            else ""
        )
        calls = [f"call_{place}" for place in range(len(functions))]
        rules = [
            f"calls: {self._terms(begin)} call {more} {self._terms('}' + style.end)}",
            f"call: {' | '.join(calls)}",
        ]
        for call, function in zip(calls, functions, strict=True):
            schema = lark_json(arguments_schema(function.parameters))
            rules.append(f"{call}: {lark_string(style.head(function.name))} {schema}")
        return rules

    def _terms(self, text: str) -> str:
        """``text`` in a rule, its tokens as tokens."""
        spellings = "|".join(map(re.escape, self._tokens))
        parts = re.split(f"({spellings})", text) if spellings else [text]
        return " ".join(
            f"<[{self._tokens[part]}]>" if part in self._tokens else lark_string(part)
            for part in parts
            if part
        )


def arguments_schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """JSON Schema of a call's arguments, which are an object whatever else is said of them."""
    if parameters is None:
        return _NO_ARGUMENTS
    if "type" in parameters:
        return dict(parameters)
    if "$ref" in parameters:
        kept = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
        return {"allOf": [{"type": "object"}, parameters], **kept}
    return {"type": "object", **parameters}


def _grammar(rules: Sequence[str]) -> Grammar:
    # In llguidance's JSON nothing has to guess which syntax the rules are in.
    return Grammar.lark(json.dumps({"grammars": [{"lark_grammar": "\n".join(rules)}]}))


def _pattern(text: str) -> str:
    """A regular expression between slashes that matches ``text``."""
    return re.sub(r"[^A-Za-z0-9_]", lambda found: rf"\x{{{ord(found[0]):x}}}", text)
