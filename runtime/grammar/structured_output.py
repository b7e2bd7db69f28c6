"""openvino_genai's ``StructuredOutputConfig`` read as a grammar of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ov_kvcrush.runtime.grammar.grammar import Grammar, GrammarKind
from ov_kvcrush.runtime.grammar.structural_tags import lark_of

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, StructuredOutputConfig


def grammar_of(config: GenerationConfig) -> Grammar | None:
    """What answers with ``config`` may be; None where nothing binds them.

    Raises:
        GrammarError: it is too large, or not text.
        UnsupportedError: it has a tag that llguidance has nothing for.
    """
    structured = config.structured_output_config
    if structured is None:
        return None
    grammar = grammar_in_text(structured)
    if grammar is not None:
        return grammar
    tags = structured.structural_tags_config
    return Grammar.lark(lark_of(structured.compound_grammar if tags is None else tags))


def grammar_in_text(structured: StructuredOutputConfig) -> Grammar | None:
    """What ``structured`` says in a text; None where it has tags.

    Raises:
        GrammarError: it is too large, or not text.
    """
    for kind in GrammarKind:
        text = getattr(structured, kind.value)
        if text is not None:
            return Grammar(kind, text)
    return None
