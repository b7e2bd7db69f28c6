"""Grammars as values: what they carry, and what is refused before a model is asked."""

from __future__ import annotations

import math

import pytest
from openvino_genai import GenerationConfig

from ov_kvcrush.errors import GrammarError
from ov_kvcrush.runtime.grammar.grammar import MAX_GRAMMAR_BYTES, Grammar, GrammarKind
from ov_kvcrush.runtime.grammar.structured_output import grammar_of


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.json_schema({"type": "integer"}),
        Grammar.json_schema('{"type": "string", "const": "é"}'),
        Grammar.json_object(),
        Grammar.regex("a+"),
        Grammar.lark('start: "a"'),
        Grammar.choice(["a", 'b "quoted" é']),
    ],
)
def test_a_config_carries_it_whole(grammar: Grammar) -> None:
    config = GenerationConfig()
    assert grammar_of(config) is None
    config.structured_output_config = grammar.to_config()
    assert grammar_of(config) == grammar
    assert hash(grammar_of(config)) == hash(grammar)


@pytest.mark.parametrize("kind", GrammarKind)
def test_a_text_is_bounded_and_utf8(kind: GrammarKind) -> None:
    assert Grammar(kind, "é" * (MAX_GRAMMAR_BYTES // 2))
    with pytest.raises(GrammarError, match="has 262,145 bytes, and at most 262,144 are taken"):
        Grammar(kind, "x" * (MAX_GRAMMAR_BYTES + 1))
    with pytest.raises(GrammarError, match="half a character at position 2"):
        Grammar(kind, "ab\ud800")


def test_a_schema_is_json() -> None:
    circular: dict[str, object] = {}
    circular["a"] = circular
    for schema in ({"minimum": math.nan}, {"enum": [{1, 2}]}, circular):
        with pytest.raises(GrammarError, match="schema is not JSON: "):
            Grammar.json_schema(schema)
