"""What one request's answer may call: checked, as a template, a grammar and a reader know it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ov_kvcrush.runtime.grammar.grammar import Grammar, GrammarKind
from ov_kvcrush.serve.errors import invalid
from ov_kvcrush.serve.fields import UNSUPPORTED
from ov_kvcrush.serve.tools.call_reader import CallReader, TextReader
from ov_kvcrush.serve.tools.exact_calls import ExactCallReader
from ov_kvcrush.serve.tools.fields import FunctionDefinition, ToolChoice
from ov_kvcrush.serve.tools.grammar import AnswerForms
from ov_kvcrush.serve.tools.marked_calls import MarkedCallReader
from ov_kvcrush.serve.tools.style import ToolStyle
from ov_kvcrush.serve.tools.whole_calls import WholeCallReader


@dataclass(frozen=True)
class ToolUse:
    """The tools of a request.

    Attributes:
        style: in which the model's template spells calls.
        mode: ``none``, ``auto`` or ``required``.
        may_call: functions that may be called, of those that the model is told of.
        at_most_one: call in an answer.
        has_grammars: the answer can be kept to a grammar.
        tokens: of the tokenizer that ``style`` spells, by spelling.
    """

    style: ToolStyle
    mode: str
    may_call: tuple[FunctionDefinition, ...]
    at_most_one: bool = False
    has_grammars: bool = True
    tokens: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        functions: Sequence[FunctionDefinition],
        choice: ToolChoice,
        style: ToolStyle | None,
        tokens: Mapping[str, int],
        at_most_one: bool,
        has_grammars: bool,
    ) -> ToolUse | None:
        """The tools of a request; None where it has none.

        Raises:
            ApiError: 400, they cannot be served.
        """
        if not functions:
            if choice.mode == "required" or choice.names is not None:
                raise invalid(
                    "a tool is to be called, and there are no tools to choose from", "tool_choice"
                )
            return None
        if style is None:
            raise invalid(
                "tools are not served with this model: its chat template leaves them out, or "
                "spells calls in a form that is not known here\n"
                "Ask without tools, or give the model another chat template.",
                "tools",
                UNSUPPORTED,
            )
        if choice.mode == "required" and not has_grammars:
            raise invalid(
                "a call cannot be made sure of: this engine keeps no answer to a form, or "
                "ignore_eos or min_tokens keeps this one from ending\n"
                "Ask with tool_choice auto.",
                "tool_choice",
                UNSUPPORTED,
            )
        names = [function.name for function in functions]
        for name in choice.names or ():
            if name not in names:
                raise invalid(f"there is no tool of the name {name!r:.100}", "tool_choice")
        allowed = names if choice.names is None else choice.names
        return cls(
            style=style,
            mode=choice.mode,
            may_call=tuple(function for function in functions if function.name in allowed),
            at_most_one=at_most_one or choice.is_one or style.between is None,
            has_grammars=has_grammars,
            tokens=tokens,
        )

    def grammar(self, answer: Grammar | None = None) -> Grammar | None:
        """What an answer may be; None where it may be anything.

        Args:
            answer: what it may be where it calls nothing; None for any text.

        Raises:
            ApiError: 400, an answer cannot be kept to both.
        """
        forms = AnswerForms(self.style, self.tokens)
        if self.mode == "required":
            return forms.calls(self.may_call, self.at_most_one)
        if self.mode == "none" and answer is not None:
            return answer
        if answer is not None:
            self._require_both(answer)
        if self.style.is_marked and self.has_grammars:
            may_call = self.may_call if self.mode == "auto" else ()
            return forms.text_or_calls(may_call, self.at_most_one, answer)
        return None

    def _require_both(self, answer: Grammar) -> None:
        if answer.kind != GrammarKind.JSON_SCHEMA:
            reason = "beside tools an answer is kept to a JSON schema, and to nothing else"
        elif not self.has_grammars:
            reason = "beside tools this engine keeps no answer to a form"
        elif not self.style.is_marked:
            reason = "calls of this model are JSON without a mark, as an answer of a form would be"
        else:
            return
        hint = "Ask with tool_choice none or required, or without a form."
        raise invalid(f"{reason}\n{hint}", "response_format", UNSUPPORTED)

    def reader(self) -> CallReader:
        """Finds the calls in one answer."""
        names = [function.name for function in self.may_call]
        if self.mode == "none":
            return TextReader()
        if self.mode == "required":
            return ExactCallReader(self.style, names)
        most = 1 if self.at_most_one else None
        if not self.style.is_marked:
            return WholeCallReader(names, most)
        marked: CallReader
        if self.has_grammars:
            marked = ExactCallReader(self.style, names)
        else:
            marked = MarkedCallReader(self.style, names, most)
        # Some models leave out the marks that their template tells them of.
        return WholeCallReader(names, most, marked, self.style)


def require_limits(functions: Sequence[FunctionDefinition], max_tools: int, max_bytes: int) -> None:
    """Raise ApiError 400 where there are too many ``functions``, they say too much, or one twice.

    Args:
        functions: of a request.
        max_tools: how many may be there.
        max_bytes: of all of them as JSON.
    """
    if len(functions) > max_tools:
        raise invalid(f"{len(functions):,} tools, and at most {max_tools:,} are taken", "tools")
    names = set[str]()
    for place, function in enumerate(functions):
        if function.name in names:
            raise invalid(f"two tools have the name {function.name!r}", f"tools.{place}")
        names.add(function.name)
        kind = (function.parameters or {}).get("type", "object")
        if kind != "object":
            raise invalid(
                f"the parameters of {function.name!r} are of the type {kind!r:.40}, and arguments "
                "are an object",
                f"tools.{place}",
            )
    size = sum(
        len(json.dumps(one.for_template(), ensure_ascii=False).encode()) for one in functions
    )
    if size > max_bytes:
        raise invalid(
            f"the tools have {size:,} bytes together, and at most {max_bytes:,} are taken", "tools"
        )
