"""openvino_genai's structural tags, by the texts that they let through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino_genai as genai
import pytest
from openvino_genai import GenerationConfig, Tokenizer
from openvino_genai import StructuredOutputConfig as Form

from ov_kvcrush.errors import GrammarError, UnsupportedError
from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.runtime.grammar.grammar_builder import GrammarBuilder
from ov_kvcrush.runtime.grammar.structured_output import grammar_of

EOS = 2
CALL = genai.StructuralTagItem(begin="<f=a>", schema='{"type": "integer"}', end="</f>")
NUMBER = Form.Tag("<n>", Form.Regex("[0-9]/[0-9]"), "</n>")
WORD = Form.Tag("<w>", Form.EBNF('root ::= "x" | "y"'), "</w>")


@dataclass(frozen=True)
class Model:
    tokenizer: Tokenizer
    builder: GrammarBuilder


@pytest.fixture(scope="module")
def model(needle_int8_dir: Path) -> Model:
    tokenizer = load_tokenizer(needle_int8_dir)
    return Model(tokenizer, GrammarBuilder(tokenizer))


def config_of(**fields: Any) -> GenerationConfig:
    config, form = GenerationConfig(), Form()
    for name, value in fields.items():
        setattr(form, name, value)
    config.structured_output_config = form
    return config


def lets_through(model: Model, config: GenerationConfig, text: str) -> bool:
    """Whether ``text`` may be a whole answer."""
    grammar = grammar_of(config)
    assert grammar is not None
    mask, row = model.builder.build(grammar).mask([EOS]), np.zeros(5120, np.float32)
    for token in model.tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist():
        row[:] = 0
        mask.apply(row)
        if not np.isfinite(row[token]):
            return False
        mask.take(token)
    row[:] = 0
    mask.apply(row)
    return bool(np.isfinite(row[EOS]))


def tags(*items: genai.StructuralTagItem, triggers: Sequence[str]) -> dict[str, Any]:
    config = genai.StructuralTagsConfig(structural_tags=list(items), triggers=list(triggers))
    return {"structural_tags_config": config}


def triggered(*, once: bool, some: bool) -> dict[str, Any]:
    form = Form.TriggeredTags(["<n", "<w"], [NUMBER, WORD], some, once)
    return {"structural_tags_config": form}


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        (tags(CALL, triggers=["<f="]), ["hi", "so <f=a>12</f> it"], ["<f=b>", "a <f=a>x</f>"]),
        ({"compound_grammar": Form.ConstString("a") + Form.Regex("b+/")}, ["abb/"], ["a", "b/"]),
        ({"compound_grammar": Form.ConstString("a") | Form.JSONSchema('{"const": 1}')},
         ["a", "1"], ["a1", "2"]),
        ({"structural_tags_config": NUMBER}, ["<n>1/2</n>"], ["<n>1</n>", "1/2"]),
        ({"structural_tags_config": Form.Tag("<t>", Form.AnyText(), "</t>")},
         ["<t></t>", "<t>any <b> thing</t>"], ["any", "<t>open", "<t>a</t> more"]),
        ({"structural_tags_config": Form.TagsWithSeparator([NUMBER, WORD], "; ", True)},
         ["<w>x</w>", "<w>y</w>; <n>0/1</n>"], ["", "<w>z</w>"]),
        ({"structural_tags_config": Form.TagsWithSeparator([WORD], ";", False, True)},
         ["", "<w>x</w>"], ["<w>x</w>;<w>x</w>"]),
        (triggered(once=False, some=False), ["", "a", "a <w>x</w> b <n>1/2</n>"], ["a <w>z</w>"]),
        (triggered(once=False, some=True), ["<w>x</w>", "a <w>x</w> b"], ["a", ""]),
        (triggered(once=True, some=False), ["a", "a <w>x</w>"], ["a <w>x</w> b"]),
        (triggered(once=True, some=True), ["a <w>x</w>"], ["a", "a <w>x</w> b"]),
    ],
)  # fmt: skip
def test_just_the_texts_of_the_tags_are_let_through(
    model: Model, form: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    config = config_of(**form)
    assert [text for text in right if not lets_through(model, config, text)] == []
    assert [text for text in wrong if lets_through(model, config, text)] == []


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        (Form.QwenXMLParametersFormat("{}"), UnsupportedError, "QwenXML"),
        (Form.Concat(Form.AnyText(), Form.Regex("a")), UnsupportedError, "any text is followed"),
        (Form.JSONSchema("[]"), GrammarError, "an object, and this one is a list"),
        (Form.JSONSchema("{"), GrammarError, "is not JSON"),
        (Form.EBNF("root ::= ("), GrammarError, "cannot be served"),
        (Form.TriggeredTags(["<x"], [WORD]), GrammarError, "'<w>' does not begin with any"),
    ],
)
def test_what_cannot_be_said_in_lark_is_refused(
    form: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        grammar_of(config_of(structural_tags_config=form))
