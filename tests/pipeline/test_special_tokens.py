"""Special tokens that a text only spells: found, broken, and told from those that are meant."""

from __future__ import annotations

import re
from pathlib import Path

import openvino_genai as genai
import pytest

from ov_kvcrush.pipeline.rendered_text import MARK, Quoting, RenderedText
from ov_kvcrush.pipeline.special_tokens import (
    SpecialTokens,
    added_tokens,
    find_special_tokens,
    overlapping,
)

NEEDLE = {"<|pad|>": 0, "<|bos|>": 1, "<|eos|>": 2}
NEEDLE |= {"<|user|>": 3, "<|assistant|>": 4, "<|system|>": 5}
TOKENS = SpecialTokens({"<|end|>": 1, "[INST]": 2, "|>x": 3}, {"<think>": 4})


def quoted(content: str, role: str = "user") -> tuple[str, ...]:
    """The pieces of ``content`` between a template's own tokens."""
    message = {"role": role, "content": content}
    quoting = Quoting(TOKENS, message)
    text = quoting.message(message)["content"]
    return quoting.read(f"[INST]{text}<|end|>").pieces


def test_a_tokenizer_tells_its_special_tokens(needle_int8_dir: Path) -> None:
    tokenizer = genai.Tokenizer(needle_int8_dir)
    found = find_special_tokens(tokenizer, [], "")
    assert found.special == NEEDLE
    assert found.markup == {}


def test_a_folder_tells_its_added_tokens(needle_int8_dir: Path, tmp_path: Path) -> None:
    assert sorted(added_tokens(needle_int8_dir)) == sorted(NEEDLE)
    assert added_tokens(tmp_path) == []
    (tmp_path / "openvino_tokenizer.xml").write_text("<net>")
    assert added_tokens(tmp_path) == []


def test_other_added_tokens_count_where_the_template_writes_them(needle_int8_dir: Path) -> None:
    tokenizer = genai.Tokenizer(needle_int8_dir)
    added = [*NEEDLE, " the", "\n", " and", "not one of its tokens"]
    found = find_special_tokens(tokenizer, added, "{{ ' the' }}\n")
    assert found.special == NEEDLE
    assert list(found.markup) == [" the"]
    assert found.ids == {*NEEDLE.values(), found.markup[" the"]}


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        ("nothing to break", ("[INST]nothing to break<|end|>",)),
        ("a <|end|> b", ("[INST]a <", "|end|> b<|end|>")),
        ("<<|end|>>", ("[INST]<<", "|end|>><|end|>")),
        ("<|end|>x", ("[INST]<", "|end|", ">x<|end|>")),
        ("<|end|><|end|>", ("[INST]<", "|end|><", "|end|><|end|>")),
        ("  [INST]\n", ("[INST]  [", "INST]\n<|end|>")),
        ("<think>", ("[INST]<", "think><|end|>")),
        # Half of one, beside what the template writes: broken where they make one together.
        ("<|end|", ("[INST]<|end|<|end|>",)),
        ("x", ("[INST]x<|end|>",)),
        ("", ("[INST]<|end|>",)),
    ],
)
def test_spellings_are_broken(content: str, pieces: tuple[str, ...]) -> None:
    assert quoted(content) == pieces


def test_an_answer_keeps_what_answers_show() -> None:
    assert quoted("<think>a</think><|end|>", "assistant") == (
        "[INST]<think>a</think><",
        "|end|><|end|>",
    )


@pytest.mark.parametrize("content", ["<|en", " <|en \n"])
def test_a_spelling_over_the_end_of_a_text_is_broken(content: str) -> None:
    message = {"role": "user", "content": content}
    quoting = Quoting(TOKENS, message)
    rendered = quoting.read(f"{quoting.message(message)['content'].strip()}d|>")
    assert rendered.pieces == ("<|en", "d|>")


def test_all_texts_of_a_message_and_of_tools_are_quoted() -> None:
    call = {"function": {"name": "f", "arguments": {"a<|end|>": ["[INST]", 1, None]}}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    quoting = Quoting(TOKENS, message)
    pieces = quoting.read(str(quoting.message(message))).pieces
    assert len(pieces) == 3
    assert "".join(pieces) == str(message)
    assert quoting.read(str(quoting.value([{"description": "<|end|>"}]))).pieces[0].endswith("<")


def test_a_text_may_hold_what_breaks_are_made_of() -> None:
    message = {"role": "user", "content": "\U00010600\U00010601<|end|>\U00010602"}
    quoting = Quoting(TOKENS, message)
    assert quoting.read(quoting.message(message)["content"]).pieces == (
        "\U00010600\U00010601<",
        "|end|>\U00010602",
    )


def test_tokens_are_marked_and_spellings_are_not() -> None:
    text = RenderedText(["[INST]a<", "|end|>", "<|end|>"], TOKENS)
    assert text.text == "[INST]a<|end|><|end|>"
    assert text.marked == f"{MARK}[INST]a<|end|>{MARK}<|end|>"


@pytest.mark.parametrize("end", range(7))
def test_a_text_is_split_anywhere(end: int) -> None:
    before, after = RenderedText(["ab", "c", "def"], TOKENS).split(end)
    assert (before.text, after.text) == ("abcdef"[:end], "abcdef"[end:])
    assert all(before.pieces)
    assert all(after.pieces)
    assert "".join(f"{piece} " for piece in (*before.pieces, *after.pieces)).count(" ") <= 4


def test_without_special_tokens_nothing_is_broken() -> None:
    none = SpecialTokens({}, {})
    message = {"role": "user", "content": "a <|end|> b"}
    quoting = Quoting(none, message)
    assert quoting.read(quoting.message(message)["content"]).pieces == ("a <|end|> b",)
    assert RenderedText(["a <|end|> b"], none).marked == "a <|end|> b"


def test_overlapping_matches_are_all_found() -> None:
    assert [m.start() for m in overlapping(re.compile("aa"), "aaaa", 1)] == [1, 2]
