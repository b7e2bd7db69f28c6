"""Grammars over tokens of every kind: what they leave, what is refused, and what is kept."""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from openvino_genai import Tokenizer

from ov_kvcrush.errors import GrammarError, GrammarFailedError
from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.runtime.grammar import grammar_builder
from ov_kvcrush.runtime.grammar.grammar import Grammar, lark_json, lark_string
from ov_kvcrush.runtime.grammar.grammar_builder import GrammarBuilder, require_readable
from ov_kvcrush.runtime.grammar.token_mask import TokenMask
from tests.support.schemas import SCHEMAS, require_valid
from tests.support.tokenizer_factory import SPECIAL, make_tokenizers

KINDS = ["needle", "byte_level", "metaspace"]


@pytest.fixture(scope="module")
def tokenizers(
    needle_int8_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tokenizer]:
    folder = make_tokenizers(tmp_path_factory.mktemp("tokenizers"))
    folders = {"needle": needle_int8_dir, **{kind: folder / kind for kind in KINDS[1:]}}
    return {kind: load_tokenizer(folder) for kind, folder in folders.items()}


def special_in(tokenizer: Tokenizer) -> int:
    """A token that is not text."""
    for spelling in ("<|eos|>", SPECIAL[1]):
        ids = tokenizer.encode(spelling, add_special_tokens=False).input_ids.data[0].tolist()
        if not tokenizer.decode(ids, skip_special_tokens=True):
            return int(ids[-1])
    raise AssertionError("there is none")


def left_by(mask: TokenMask, size: int = 6000) -> set[int]:
    row = np.zeros(size, np.float32)
    mask.apply(row)
    return set(np.flatnonzero(np.isfinite(row)).tolist())


def walk(
    tokenizer: Tokenizer, grammar: Grammar, ends: Collection[int], seed: int, longest: int = 400
) -> str:
    """A text that a model without any preference writes."""
    mask = GrammarBuilder(tokenizer).build(grammar).mask(ends)
    random, tokens = np.random.default_rng(seed), list[int]()
    while len(tokens) < longest:
        row = random.normal(size=6000).astype(np.float32)
        mask.apply(row)
        token = int(row.argmax())
        assert np.isfinite(row[token])
        if token in ends:
            return str(tokenizer.decode(tokens))
        mask.take(token)
        tokens.append(token)
    raise AssertionError("it has no end")


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_walk_is_what_the_schema_allows(
    tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    tokenizer = tokenizers[kind]
    for seed, name in enumerate(["enum record", "pattern record", "const record", "uuid list"]):
        schema = SCHEMAS[name]
        text = walk(tokenizer, Grammar.json_schema(schema), [special_in(tokenizer)], seed)
        require_valid(text, schema)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_grammar_spells_is_text_and_never_a_special_token(
    tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    tokenizer, end = tokenizers[kind], special_in(tokenizers[kind])
    spelled = str(tokenizer.decode([end], skip_special_tokens=False))
    text = f" é, 你好 😀{spelled}!"
    written = walk(tokenizer, Grammar.choice([text]), [end], 0)
    assert written in (text, text[1:])  # some begin no text with a space


def test_only_what_is_not_text_ends_an_answer(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["needle"]
    end, word = special_in(tokenizer), tokenizer.encode("b").input_ids.data[0].tolist()[-1]
    built = GrammarBuilder(tokenizer).build(Grammar.regex("ab?"))
    for ends in ([end, word], [word], []):
        mask = built.mask(ends)
        (first,) = left_by(mask) & set(tokenizer.encode("a").input_ids.data[0].tolist())
        assert end not in left_by(mask)
        mask.take(first)
        assert left_by(mask) == {word} | ({end} if end in ends else set())
        mask.take(word)
        assert mask.has_ended == (end not in ends)


def test_a_row_may_have_fewer_or_more_tokens_than_the_tokenizer(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["needle"]
    built = GrammarBuilder(tokenizer).build(Grammar.regex("[a-z]+"))
    whole = left_by(built.mask([5119]), 5120)
    assert left_by(built.mask([5119]), 9000) == whole
    assert left_by(built.mask([5119]), 300) == {token for token in whole if token < 300}


def test_a_grammar_in_lark_has_json_spelled_as_elsewhere(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer, schema = tokenizers["needle"], SCHEMAS["enum record"]
    text = f"start: {lark_string('<call>')} call\ncall: {lark_json(schema)}\n"
    written = walk(tokenizer, Grammar.lark(text), [2], 0)
    require_valid(written.removeprefix("<call>"), schema)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar.json_schema('{"type": 3'), "delimiter"),
        (Grammar.json_schema("[]"), "an object, and this one is a list"),
        (Grammar.json_schema("false"), "allows no answer"),
        (Grammar.json_schema({"if": {}}), 'Unimplemented keys: ["if"]'),
        (Grammar.json_schema("[" * 100_000), "recursion"),
        (Grammar.regex("a{2"), "repetition"),
        (Grammar.lark("start: b"), 'unknown name: "b"'),
        (Grammar.lark("root ::= ("), "Expected"),
        (Grammar.lark('{"grammars": 3}'), "sequence"),
    ],
)
def test_what_is_refused_is_told_in_one_line(
    tokenizers: dict[str, Tokenizer], grammar: Grammar, reason: str
) -> None:
    builder = GrammarBuilder(tokenizers["needle"])
    for build in (builder.build, require_readable):
        with pytest.raises(GrammarError) as refused:
            build(grammar)
        assert reason in refused.value.message
        assert "\n" not in refused.value.message
    assert not builder.is_built(grammar)


def test_one_that_grows_too_large_fails(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_builder, "_STEP_ITEMS", 500)
    ambiguous = Grammar.lark('start: s{200}\ns: s s | "a" | "b"\n')
    with pytest.raises(GrammarFailedError, match=r"failed after .* Too many items"):
        walk(tokenizers["needle"], ambiguous, [2], 0)


def test_each_is_built_once_and_those_used_last_are_kept(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_builder, "_MAX_KEPT", 3)
    builder = GrammarBuilder(tokenizers["needle"])
    grammars = [Grammar.choice([f"a{number}"]) for number in range(4)]
    built = [builder.build(grammar) for grammar in grammars[:3]]
    assert builder.build(grammars[0]) is built[0]
    builder.build(grammars[3])
    assert [builder.is_built(grammar) for grammar in grammars] == [True, False, True, True]
    monkeypatch.setattr(grammar_builder, "_MAX_KEPT_CHARACTERS", 30)
    builder.build(grammars[1])
    assert builder.is_built(grammars[1])
    assert sum(map(builder.is_built, grammars)) == 2


def test_threads_that_want_the_same_one_get_it(tokenizers: dict[str, Tokenizer]) -> None:
    builder = GrammarBuilder(tokenizers["needle"])
    grammars = [Grammar.json_schema(schema) for schema in list(SCHEMAS.values())[:6]]
    seen: dict[Grammar, set[int]] = {grammar: set() for grammar in grammars}

    def build() -> None:
        for grammar in grammars:
            seen[grammar].add(id(builder.build(grammar)))

    threads = [threading.Thread(target=build) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(ids) == 1 for ids in seen.values())
