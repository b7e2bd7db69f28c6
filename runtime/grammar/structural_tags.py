"""openvino_genai's structural tags and compound grammars, written in Lark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from openvino_genai import StructuralTagsConfig, StructuredOutputConfig

from ov_kvcrush.errors import GrammarError, UnsupportedError
from ov_kvcrush.runtime.grammar.grammar import lark_json, lark_string

_TEXT = r"/(.|\n)*/"


def lark_of(tags: Any) -> str:
    """A grammar whose texts are those of ``tags``.

    Args:
        tags: a ``StructuralTagsConfig``, or what ``StructuredOutputConfig`` has classes for.

    Returns:
        Lark in llguidance's form, or its JSON where ``tags`` hold grammars of their own.

    Raises:
        GrammarError: a schema is not JSON, or a tag does not begin with a trigger.
        UnsupportedError: a kind that llguidance has nothing for.
    """
    writer = _Writer()
    return writer.grammar(writer.rule(tags))


@dataclass
class _Writer:
    """Rules of one grammar as they come."""

    lines: list[str] = field(default_factory=list)
    grammars: list[dict[str, str]] = field(default_factory=list)

    def grammar(self, start: str) -> str:
        """All of it, beginning with the rule ``start``."""
        lark = "\n".join([f"start: {start}", *self.lines, ""])
        if not self.grammars:
            return lark
        return json.dumps({"grammars": [{"name": "tags", "lark_grammar": lark}, *self.grammars]})

    def rule(self, tag: Any) -> str:
        """The name of a rule for ``tag``."""
        return self._named(self._body(tag))

    def _named(self, body: str) -> str:
        name = f"rule_{len(self.lines)}"
        self.lines.append(f"{name}: {body}")
        return name

    def _body(self, tag: Any) -> str:
        kinds = StructuredOutputConfig
        match tag:
            case str():
                return lark_string(tag)
            case kinds.JSONSchema():
                return self._schema(tag.value)
            case kinds.Regex():
                return self._regex(tag.value)
            case kinds.EBNF():
                return self._ebnf(tag.value)
            case kinds.AnyText():
                return _TEXT
            case kinds.Concat() | kinds.Tag() | kinds.ConstString():
                return self._sequence(_parts_of(tag))
            case kinds.Union():
                return " | ".join(self.rule(part) for part in tag.elements)
            case kinds.TagsWithSeparator():
                return self._separated(tag)
            case kinds.TriggeredTags():
                return self._triggered(
                    tag.triggers, tag.tags, tag.at_least_one, tag.stop_after_first
                )
            case StructuralTagsConfig():
                items = [
                    kinds.Tag(item.begin, kinds.JSONSchema(item.schema), item.end)
                    for item in tag.structural_tags
                ]
                return self._triggered(tag.triggers, items, False, False)
        raise UnsupportedError(
            f"structured output of the kind {type(tag).__name__} is not served by this engine",
            "Say it with a JSON schema, a regular expression or a grammar, or use the genai engine "
            "(engine='genai').",
        )

    def _sequence(self, parts: Sequence[Any]) -> str:
        """``parts``, one behind the other; any text ends with the first of the text behind it."""
        names, rest = [], list(parts)
        while rest:
            part = rest.pop(0)
            if not isinstance(part, StructuredOutputConfig.AnyText) or not rest:
                names.append(self.rule(part))
            elif isinstance(rest[0], str):
                names.append(self._text_until(rest.pop(0)))
            else:
                raise UnsupportedError(
                    "any text is followed by something else than a text that it ends with",
                    "Put a fixed text behind it.",
                )
        return " ".join(names) or '""'

    def _text_until(self, end: str) -> str:
        """The name of a rule for text up to the first place where ``end`` is complete."""
        name = f"text_{len(self.lines)}"
        self.lines.append(f"{name}[lazy]: {_TEXT} {lark_string(end)}")
        return name

    def _separated(self, tag: Any) -> str:
        one = self._named(" | ".join(self.rule(each) for each in tag.tags))
        separator = lark_string(tag.separator) if tag.separator else ""
        more = "" if tag.stop_after_first else f" ({separator} {one})*"
        some = f"{one}{more}"
        return some if tag.at_least_one else f"({some})?"

    def _triggered(
        self, triggers: Sequence[str], tags: Sequence[Any], at_least_one: bool, once: bool
    ) -> str:
        """Text in which each of ``triggers`` begins one of ``tags``."""
        options = []
        for tag in tags:
            trigger = next((one for one in triggers if one and tag.begin.startswith(one)), None)
            if trigger is None:
                raise GrammarError(
                    f"the tag {tag.begin!r:.60} does not begin with any of the triggers",
                    "Give what it begins with among the triggers.",
                )
            text = self._text_until(trigger)
            rest = [tag.begin[len(trigger) :], *_parts_of(tag)[bool(tag.begin) :]]
            behind = self._sequence([part for part in rest if part != ""])
            options.append(self._named(f"{text} {behind}"))
        either = " | ".join(options)
        if once:
            return either if at_least_one else f"{either} | {self._named(_TEXT)}"
        return f"({either}){'+' if at_least_one else '*'} {self._named(_TEXT)}"

    def _schema(self, text: str) -> str:
        try:
            schema = json.loads(text)
        except ValueError as error:
            raise GrammarError(f"the JSON schema is not JSON: {error}") from None
        if not isinstance(schema, dict):
            raise GrammarError(
                f"a JSON schema is an object, and this one is a {type(schema).__name__}"
            )
        return lark_json(schema)

    def _regex(self, pattern: str) -> str:
        from llguidance import regex_to_lark

        return f"/{regex_to_lark(pattern, '')}/"

    def _ebnf(self, text: str) -> str:
        from llguidance.gbnf_to_lark import any_to_lark

        name = f"grammar_{len(self.grammars)}"
        try:
            self.grammars.append({"name": name, "lark_grammar": any_to_lark(text)})
        except Exception as error:  # the converter has errors of its own
            raise GrammarError(f"the grammar cannot be served: {error}") from None
        return f"@{name}"


def _parts_of(tag: Any) -> list[Any]:
    """What stands one behind the other in ``tag``, fixed texts as ``str``, none empty."""
    kinds = StructuredOutputConfig
    match tag:
        case kinds.ConstString():
            parts = [tag.value]
        case kinds.Tag():
            parts = [tag.begin, *_parts_of(tag.content), tag.end]
        case kinds.Concat():
            parts = [part for element in tag.elements for part in _parts_of(element)]
        case _:
            parts = [tag]
    return [part for part in parts if part != ""]
