"""What an answer with tools may be, as a grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ov_kvcrush.runtime.grammar.grammar import Grammar, GrammarKind, lark_json, lark_string
from ov_kvcrush.serve.tools.fields import FunctionDefinition
from ov_kvcrush.serve.tools.style import ToolStyle

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


def calls_grammar(
    style: ToolStyle, functions: Sequence[FunctionDefinition], at_most_one: bool
) -> Grammar:
    """An answer of calls and nothing else.

    Args:
        style: of the template.
        functions: one at least; which of them may be called.
        at_most_one: call.
    """
    rules = ["start: calls", *_calls(style, style.begin, functions, at_most_one)]
    return Grammar.lark("\n".join(rules))


def text_or_calls_grammar(
    style: ToolStyle,
    functions: Sequence[FunctionDefinition],
    at_most_one: bool,
    answer: Grammar | None = None,
) -> Grammar:
    """A text, calls, or both; for styles that mark calls.

    Args:
        style: of the template, which has to be marked.
        functions: none where nothing may be called; then no text begins like a call either.
        at_most_one: call.
        answer: what an answer without calls may be; None for any text.
    """
    mark, any_text = style.begin.strip(), "(?s:.*)"
    marked = any_text + _pattern(mark)
    text_rule = f"TEXT: /{any_text}/ & ~/{marked}{any_text}/"
    if not functions:
        return Grammar.lark(f"start: TEXT\n{text_rule}")
    begin = style.begin[style.begin.index(mark) + len(mark) :]
    if answer is None:
        text = f"({any_text}{_pattern(style.before)})?" if style.before else any_text
        # The first mark is the one that counts, and stands where the style has it or not at all.
        first = f"marked[lazy]: /{text}{_pattern(mark)}/ & ~/{marked}(?s:.+)/"
        rules = ["start: TEXT | marked calls", text_rule, first]
    else:
        rules = [f"start: answer | {lark_string(mark)} calls", f"answer: {_answer(answer)}"]
    return Grammar.lark("\n".join([*rules, *_calls(style, begin, functions, at_most_one)]))


def _calls(
    style: ToolStyle, begin: str, functions: Sequence[FunctionDefinition], at_most_one: bool
) -> list[str]:
    """Rules of ``calls``, which begin with ``begin``."""
    can_repeat = style.between is not None and not at_most_one
    more = f" ({lark_string('}' + (style.between or ''))} call)*" if can_repeat else ""
    opening = f"{lark_string(begin)} " if begin else ""
    rules = [
        f"calls: {opening}call{more} {lark_string('}' + style.end)}",
        "call: " + " | ".join(f"call_{place}" for place in range(len(functions))),
    ]
    for place, function in enumerate(functions):
        schema = lark_json(arguments_schema(function.parameters))
        rules.append(f"call_{place}: {lark_string(style.head(function.name))} {schema}")
    return rules


def arguments_schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """JSON Schema of a call's arguments, which are an object whatever else is said of them."""
    if parameters is None:
        return _NO_ARGUMENTS
    if "type" in parameters:
        return dict(parameters)
    if "$ref" in parameters:
        return {"allOf": [{"type": "object"}, parameters], **_definitions(parameters)}
    return {"type": "object", **parameters}


def _definitions(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def _answer(answer: Grammar) -> str:
    match answer.kind:
        case GrammarKind.JSON_SCHEMA:
            return lark_json(json.loads(answer.text))
        case GrammarKind.REGEX:
            return f"/{answer.text}/"
    raise ValueError(f"not a part of another grammar: {answer.kind}")


def _pattern(text: str) -> str:
    """A regular expression between slashes that matches ``text``."""
    return re.sub(r"[^A-Za-z0-9_]", lambda found: rf"\x{{{ord(found[0]):x}}}", text)
