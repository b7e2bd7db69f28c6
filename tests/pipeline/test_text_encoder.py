"""Ids that read like their texts, of tokenizers of several kinds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino_genai as genai
import pytest

from ov_kvcrush.errors import PromptError
from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder
from ov_kvcrush.pipeline.special_tokens import added_tokens
from ov_kvcrush.pipeline.text_encoder import TextEncoder
from tests.support.tokenizer_factory import MARKUP, SPECIAL, TEXT_TOKENS, make_tokenizers

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)
ALL = " ".join([*SPECIAL, *MARKUP, *TEXT_TOKENS])


def encoder_of(folder: Path) -> PromptEncoder:
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = CHAT
    return PromptEncoder(tokenizer, added_tokens(folder))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def byte_level(tokenizers: Path) -> PromptEncoder:
    return encoder_of(tokenizers / "byte_level")


@pytest.fixture(scope="module")
def metaspace(tokenizers: Path) -> PromptEncoder:
    return encoder_of(tokenizers / "metaspace")


def only_id(encoder: PromptEncoder, spelling: str) -> int:
    (number,) = encoder.encode(encoder.plain(spelling))[-1:]
    return number


def test_no_token_that_steers_a_chat_comes_of_a_question(byte_level: PromptEncoder) -> None:
    messages = [{"role": "user", "content": ALL}]
    rendered = byte_level.render(messages)
    ids = byte_level.encode(rendered)
    steering = [id for id in ids if id in {only_id(byte_level, one) for one in SPECIAL + MARKUP}]
    written = ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<think>"]
    assert steering == [only_id(byte_level, one) for one in written]
    assert {only_id(byte_level, one) for one in TEXT_TOKENS} <= set(ids)
    assert byte_level.tokenizer.decode(ids, skip_special_tokens=False) == rendered.text
    assert byte_level.decode_marked(ids) == rendered.marked


def test_an_answer_keeps_the_tokens_that_answers_show(byte_level: PromptEncoder) -> None:
    answer = f"<think>so</think>{SPECIAL[2]}"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    ids = byte_level.encode(byte_level.render(messages, add_generation_prompt=False))
    assert {only_id(byte_level, one) for one in MARKUP[:2]} <= set(ids)
    assert only_id(byte_level, SPECIAL[2]) not in ids


def test_pieces_do_not_gain_the_space_that_begins_a_text(metaspace: PromptEncoder) -> None:
    messages = [{"role": "user", "content": f"a{ALL}é b"}]
    rendered = metaspace.render(messages)
    assert len(rendered.pieces) == 4
    ids = metaspace.encode(rendered)
    assert metaspace.tokenizer.decode(ids, skip_special_tokens=False) == rendered.text
    assert metaspace.decode_marked(ids) == rendered.marked
    assert metaspace.encode_continuing(rendered, ids[:9]) == ids


def test_many_pieces_are_encoded_each_by_itself(needle_int8_dir: Path) -> None:
    tokenizer = load_tokenizer(needle_int8_dir)
    pieces = [f"{'room ' * (n % 7)}{n}|" for n in range(300)]
    wanted = [
        id
        for piece in pieces
        for id in tokenizer.encode(piece, add_special_tokens=False).input_ids.data[0]
    ]
    assert TextEncoder(tokenizer, []).encode_behind(pieces) == wanted


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tokenizer_that_cuts_texts_off_is_found_out(needle_int8_dir: Path, side: str) -> None:
    tokenizer = load_tokenizer(needle_int8_dir)
    how: Mapping[str, Any] = {"truncation": True, "max_length": 600, "padding_side": side}

    class Cutting:
        """The same tokenizer with a length that cannot be changed, as there are some."""

        decode = tokenizer.decode

        def encode(self, text: str, add_special_tokens: bool) -> genai.TokenizedInputs:
            return tokenizer.encode(text, add_special_tokens=add_special_tokens, **how)

    encoder = TextEncoder(Cutting(), [])
    assert 512 < len(encoder.encode("room 7, " * 130)) < 600
    with pytest.raises(PromptError, match="more than the 600 tokens"):
        encoder.encode("room 7, " * 1000)
