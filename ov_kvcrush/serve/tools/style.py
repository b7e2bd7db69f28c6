"""How a chat template spells calls, found by rendering some."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ov_kvcrush.errors import OVKVCrushError
from ov_kvcrush.serve.tools.calls import Call

Render: TypeAlias = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]], bool], str]
"""Messages and tools through the template, with what an answer begins behind where that is true."""

_NAMES = ("zeroth_function", "first_function")
_TEXT = "Zebras graze."
_KEY = re.compile(rf'\{{"name": "{_NAMES[0]}", "(arguments|parameters)": \{{"zeroth": "0"\}}\}}')
_QUESTION = {"role": "user", "content": "Question?"}
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {name}.",
            "parameters": {"type": "object", "properties": {}},
        },
    }
    for name in _NAMES
]


@dataclass(frozen=True)
class ToolStyle:
    """A form of answers: ``lead (text before) begin call (between call …) end``.

    A call is ``{"name": NAME, "arguments": OBJECT}``.

    Attributes:
        begin: stands before the first call.
        between: stands between two; None where a template spells one at a time.
        end: stands behind the last.
        before: stands between a text and ``begin``; None where an answer is text or calls.
        key: what the arguments are called.
        lead: blanks that the template puts before each answer, and not behind the prompt of one.
        as_content: a template spells a message of this form as it is, so histories can be given
            each call as the model wrote it.
    """

    begin: str = ""
    between: str | None = None
    end: str = ""
    before: str | None = None
    key: str = "arguments"
    lead: str = ""
    as_content: bool = True

    @property
    def is_marked(self) -> bool:
        """Whether calls begin with what is not JSON, so that they may follow a text."""
        return self.before is not None and bool(self.begin.strip()) and self.begin.strip()[0] != "{"

    @property
    def marks(self) -> str:
        """All that stands around calls."""
        return "".join(filter(None, (self.before, self.begin, self.between, self.end)))

    def head(self, name: str) -> str:
        """What of a call stands before its arguments."""
        return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{self.key}": '

    def spell(self, calls: Sequence[Call], text: str = "") -> str | None:
        """The answer of ``text`` and ``calls``, arguments as they are; None where it has no form.

        Args:
            calls: one at least.
            text: that stands before them.
        """
        if (text and self.before is None) or (len(calls) > 1 and self.between is None):
            return None
        joined = self._joined(calls, self.between or "")
        return f"{text}{self.before if text else ''}{self.begin}{joined}{self.end}"

    def spell_bare(self, calls: Sequence[Call]) -> str:
        """The answer of ``calls`` that a model makes which leaves out the marks."""
        return self._joined(calls, "\n")

    def _joined(self, calls: Sequence[Call], between: str) -> str:
        return between.join(f"{self.head(call.name)}{call.arguments}}}" for call in calls)


POLYFILLED = ToolStyle('{"tool_calls": [', ", ", "]}")
"""The form that openvino_genai teaches models whose template does not know tools, on one line."""


def find_tool_style(render: Render, hidden: Collection[str] = ()) -> ToolStyle | None:
    """How the template behind ``render`` spells calls; None where that is not known here.

    Args:
        render: messages and tools through the template.
        hidden: spellings of tokens that the texts of answers do not show.
    """
    try:
        style = _find(render)
        if style is None or any(one in style.marks for one in hidden):
            return None
        return _checked(style, render)
    except (OVKVCrushError, ValueError):
        return None


def _find(render: Render) -> ToolStyle | None:
    texts, called = _answered(render, content=_TEXT), _answered(render, calls=1)
    prompt = render([_QUESTION], _TOOLS, True)
    if _NAMES[0] not in prompt:
        return None  # tools are left out without a word
    head, _, tail = texts.partition(_TEXT)
    lead = head.removeprefix(prompt)
    lead = "" if lead.strip() else lead
    # What only leads to an answer is not of its form.
    answer = _behind(called, head)
    found = _KEY.search(answer)
    if found is None:
        is_polyfilled = _is_polyfilled(answer.removesuffix(tail))
        return replace(POLYFILLED, lead=lead) if is_polyfilled else None
    end = answer[found.end() :]
    if not end.endswith(tail):
        return None
    return ToolStyle(
        begin=answer[: found.start()],
        between=_between(render, head, found[0], found[1]),
        end=end.removesuffix(tail),
        before=_before(render, head, answer[: found.start()], found[0]),
        key=found[1],
        lead=lead,
    )


def _between(render: Render, head: str, first: str, key: str) -> str | None:
    try:
        answer = _behind(_answered(render, calls=2), head)
    except (OVKVCrushError, ValueError):
        return None
    second = f'{{"name": "{_NAMES[1]}", "{key}": {{"first": "1"}}}}'
    begin, end = answer.find(first) + len(first), answer.find(second)
    return answer[begin:end] if begin <= end else None


def _before(render: Render, head: str, begin: str, first: str) -> str | None:
    try:
        answer = _behind(_answered(render, content=_TEXT, calls=1), head)
    except (OVKVCrushError, ValueError):
        return None
    text, _, rest = answer.partition(_TEXT)
    before, _, _ = rest.partition(begin + first)
    return before if not text and begin + first in rest and not before.strip() else None


def _checked(style: ToolStyle, render: Render) -> ToolStyle:
    """``style`` with whether the template leaves it as it is, also where its result follows."""
    call = Call("call_0", _NAMES[0], '{"zeroth":  [0]}')
    content = style.spell([call]) or ""
    answered = [_QUESTION, {"role": "assistant", "content": content}]
    result = {"role": "tool", "content": "Result.", "tool_call_id": "call_0"}
    try:
        texts = [render(turns, _TOOLS, False) for turns in (answered, [*answered, result])]
    except OVKVCrushError:
        texts = [""]
    return replace(style, as_content=all(content in text for text in texts))


def _answered(render: Render, content: str = "", calls: int = 0) -> str:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{place}",
                "type": "function",
                "function": {"name": name, "arguments": {name.partition("_")[0]: str(place)}},
            }
            for place, name in enumerate(_NAMES[:calls])
        ]
    return render([_QUESTION, message], _TOOLS, False)


def _behind(rendered: str, head: str) -> str:
    """What follows ``head``; some templates have fewer blanks before a call than before a text."""
    if rendered.startswith(head):
        return rendered[len(head) :]
    if not rendered.startswith(head.rstrip()):
        raise ValueError("the answer cannot be told from what stands before it")
    return rendered[len(head.rstrip()) :].lstrip()


def _is_polyfilled(answer: str) -> bool:
    read = json.loads(answer)
    calls = read.get("tool_calls") if isinstance(read, dict) else None
    if not isinstance(calls, list) or len(calls) != 1 or not isinstance(calls[0], dict):
        return False
    return calls[0].get("name") == _NAMES[0] and calls[0].get("arguments") == {"zeroth": "0"}
