"""Tokens as text and bytes, with tokenizers of both kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
from openvino_genai import Tokenizer

from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.serve.token_texts import TokenTexts
from tests.support.tokenizer_factory import SPECIAL, make_tokenizers

TEXTS = ["How many coins?", " é, 你好 😀!", "a\n\nb"]


@pytest.fixture(scope="module")
def tokenizers(needle_int8_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    folder = make_tokenizers(tmp_path_factory.mktemp("tokenizers"))
    folders = [needle_int8_dir, folder / "byte_level", folder / "metaspace"]
    return [load_tokenizer(folder) for folder in folders]


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
    return ids


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_tokens_are_the_bytes_of_their_text(
    tokenizers: list[Tokenizer], text: str
) -> None:
    for tokenizer in tokenizers:
        texts = TokenTexts(tokenizer)
        data = b"".join(texts.of(token).data for token in ids_of(tokenizer, text))
        assert data.decode() in (text, f" {text}")  # some begin each text with a space


def test_half_a_character_is_told_by_its_bytes(tokenizers: list[Tokenizer]) -> None:
    for tokenizer in tokenizers:
        texts = TokenTexts(tokenizer)
        parts = [texts.of(token) for token in ids_of(tokenizer, "a😀")][-4:]
        assert [part.data for part in parts] == [b"\xf0", b"\x9f", b"\x98", b"\x80"]
        assert [part.text for part in parts] == ["\\xf0", "\\x9f", "\\x98", "\\x80"]


def test_a_special_token_has_its_spelling_and_no_bytes(tokenizers: list[Tokenizer]) -> None:
    for tokenizer in tokenizers[1:]:
        (token,) = ids_of(tokenizer, f"a{SPECIAL[1]}")[-1:]
        told = TokenTexts(tokenizer).of(token)
        assert (told.text, told.data) == (SPECIAL[1], b"")


def test_spellings_of_the_other_kind_are_text(tokenizers: list[Tokenizer]) -> None:
    byte_level = TokenTexts(tokenizers[1])
    ids = ids_of(tokenizers[1], "<0x41>\u2581")
    assert "".join(byte_level.of(token).data.decode("latin1") for token in ids).startswith("<0x41>")


def test_a_token_beyond_the_vocabulary_has_no_text(tokenizers: list[Tokenizer]) -> None:
    for tokenizer in tokenizers:
        assert TokenTexts(tokenizer).of(2**20).text == ""
