"""What grammars of answers with tools let through."""

from __future__ import annotations

from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from ov_kvcrush.runtime.grammar.grammar import Grammar
from ov_kvcrush.serve.tools.calls import Call
from ov_kvcrush.serve.tools.fields import FunctionDefinition
from ov_kvcrush.serve.tools.grammar import MAX_CALLS, AnswerForms, arguments_schema
from ov_kvcrush.serve.tools.style import POLYFILLED, ToolStyle
from tests.support.tool_styles import LLAMA_LIKE, QWEN_LIKE

FUNCTIONS = [
    FunctionDefinition(
        name="find",
        parameters={
            "type": "object",
            "properties": {"x": {"type": "integer"}, "y": {"type": "string"}},
            "required": ["x"],
            "additionalProperties": False,
        },
    ),
    FunctionDefinition(name="find_all", parameters={}),
    FunctionDefinition(name="now", description="root ::= is not a rule here"),
]
FIND, ALL, NOW = (
    Call("", "find", '{"x": 1}'),
    Call("", "find_all", '{"a": [{}]}'),
    Call("", "now", "{}"),
)
BYTES = LLTokenizer("byte")


def lets_through(grammar: Grammar, text: str, marks: dict[bytes, int] | None = None) -> bool:
    """Whether ``text`` is an answer; each of its bytes is a token, as each of ``marks`` is."""
    matcher = LLMatcher(BYTES, grammar.text)
    assert not matcher.is_error(), matcher.get_error()
    data = text.encode()
    for mark, token in (marks or {}).items():
        data = data.replace(mark, bytes([token]))
    tokens = list(data)
    if matcher.validate_tokens(tokens) < len(tokens):
        return False
    matcher.consume_tokens(tokens)
    return bool(matcher.is_accepting())


def spelled(style: ToolStyle, *calls: Call, text: str = "") -> str:
    answer = style.spell(calls, text)
    assert answer is not None
    return style.lead + answer


@pytest.mark.parametrize(
    "style", [QWEN_LIKE, LLAMA_LIKE, POLYFILLED, ToolStyle(lead=" "), ToolStyle("[", ", ", "]")]
)
def test_calls_are_let_through_as_the_style_spells_them(style: ToolStyle) -> None:
    grammar = AnswerForms(style, {}).calls(FUNCTIONS, at_most_one=False)
    for call in (FIND, ALL, NOW):
        assert lets_through(grammar, spelled(style, call))
    for wrong in ("", "Well.", "{}", spelled(style, Call("", "find", '{"x": "1"}'))):
        assert not lets_through(grammar, wrong)
    assert not lets_through(grammar, spelled(style, Call("", "now", '{"a": 1}')))
    assert not lets_through(grammar, spelled(style, FIND) + " ")


@pytest.mark.parametrize("style", [QWEN_LIKE, POLYFILLED])
def test_there_may_be_several_calls_or_one(style: ToolStyle) -> None:
    forms = AnswerForms(style, {})
    many, one = (forms.calls(FUNCTIONS, at_most_one=only) for only in (False, True))
    assert lets_through(many, spelled(style, FIND, NOW, ALL))
    assert not lets_through(one, spelled(style, FIND, NOW))
    assert lets_through(many, spelled(style, *[NOW] * MAX_CALLS))
    assert not lets_through(many, spelled(style, *[NOW] * (MAX_CALLS + 1)))


# No text has these bytes.
TOKENS = {"<tool_call>": 0xFD, "</tool_call>": 0xFE}


@pytest.mark.parametrize("tokens", [{}, TOKENS], ids=["bytes", "tokens"])
@pytest.mark.parametrize("lead", ["", " "])
def test_text_may_stand_before_calls_where_the_style_has_it(
    tokens: dict[str, int], lead: str
) -> None:
    style = ToolStyle(QWEN_LIKE.begin, QWEN_LIKE.between, QWEN_LIKE.end, "\n", lead=lead)
    marks = {text.encode(): token for text, token in tokens.items()}
    forms = AnswerForms(style, tokens)
    grammar = forms.text_or_calls(FUNCTIONS, at_most_one=False)
    for text in ("", "Well.", "é\n\n", '<tool> {"name": "find"} </tool_call', "<tool_cal"):
        assert lets_through(grammar, text, marks)
    for answer in (
        spelled(style, FIND),
        spelled(style, FIND, NOW, text="Well."),
        spelled(style, FIND, text="Well.\n"),
    ):
        assert lets_through(grammar, answer, marks)
        assert not lets_through(grammar, answer + "And.", marks)
    call = spelled(QWEN_LIKE, FIND)
    assert not lets_through(grammar, f"Well.{call}", marks)
    assert not lets_through(grammar, f"<tool_call>\n{call}", marks)
    # A mark that is a token is not written in pieces, which would be others in the next prompt.
    assert lets_through(grammar, lead + call) == (not tokens)
    silent = forms.text_or_calls([], at_most_one=False)
    assert lets_through(silent, "Well.")
    assert not lets_through(silent, spelled(style, FIND))


def test_an_answer_without_calls_may_have_a_form() -> None:
    colour = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    grammar = AnswerForms(QWEN_LIKE, {}).text_or_calls(
        FUNCTIONS, at_most_one=True, answer=Grammar.json_schema(colour)
    )
    assert lets_through(grammar, '{"name": "red"}')
    assert lets_through(grammar, spelled(QWEN_LIKE, FIND))
    for wrong in ("Well.", "{}", spelled(QWEN_LIKE, FIND, NOW)):
        assert not lets_through(grammar, wrong)


@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        (None, "{}"),
        ({}, '{"a": 1}'),
        ({"properties": {"a": {"type": "integer"}}, "required": ["a"]}, '{"a": 1}'),
        (
            {
                "$ref": "#/$defs/node",
                "$defs": {
                    "node": {
                        "type": "object",
                        "properties": {"next": {"$ref": "#/$defs/node"}},
                        "additionalProperties": False,
                    }
                },
            },
            '{"next": {"next": {}}}',
        ),
        (
            {
                "anyOf": [
                    {"required": [name], "properties": {name: {"type": "null"}}} for name in "ab"
                ]
            },
            '{"b": null}',
        ),
    ],
)
def test_arguments_are_an_object_of_the_functions_schema(
    parameters: dict[str, Any] | None, arguments: str
) -> None:
    function = FunctionDefinition(name="f", parameters=parameters)
    grammar = AnswerForms(LLAMA_LIKE, {}).calls([function], at_most_one=True)
    assert lets_through(grammar, spelled(LLAMA_LIKE, Call("", "f", arguments)))
    for wrong in ("[]", "1", "null"):
        assert not lets_through(grammar, spelled(LLAMA_LIKE, Call("", "f", wrong)))
    if parameters is not None:
        assert arguments_schema(parameters) is not parameters
