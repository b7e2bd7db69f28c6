"""Text token by token: the same as all tokens decoded, whatever the tokenizer does between them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openvino_genai import Tokenizer
from openvino_tokenizers import convert_tokenizer
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ov_kvcrush.runtime.generation.growing_text import GrowingText, Piece

TEXT = "It was late , and I 've said : don 't ! It 's 'so ' . A 世界 🎉🎉 \n\n  x \ufffd y ? " * 3
SPECIALS = ["<unk>", "<s>", "</s>", "<|user|>"]


def byte_level() -> FastTokenizer:
    """As of GPT-2, Qwen and Llama 3: a token may be a part of a character."""
    made = FastTokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    return made


def sentence_piece() -> FastTokenizer:
    """As of Llama 2, Mistral and Gemma: the first space is dropped, rare characters are bytes."""
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = FastTokenizer(models.BPE())
    trained.normalizer = spaces
    trainer = trainers.BpeTrainer(vocab_size=144, show_progress=False)
    trained.train_from_iterator([TEXT.replace("世界", "").replace("🎉", "")], trainer)
    learned = json.loads(trained.to_str())["model"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    names = [*SPECIALS, *fallback, *learned["vocab"]]
    made = FastTokenizer(
        models.BPE(
            {name: number for number, name in enumerate(names)},
            [tuple(pair) for pair in learned["merges"]],
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    made.normalizer = spaces
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(SPECIALS)
    return made


@pytest.fixture(
    scope="module",
    params=[
        (byte_level, False),
        (byte_level, True),
        (sentence_piece, False),
        (sentence_piece, True),
    ],
    ids=["bytes", "bytes, spaces dropped", "pieces", "pieces, spaces dropped"],
)
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    make: Callable[[], FastTokenizer] = request.param[0]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=make(),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|user|>"],
        clean_up_tokenization_spaces=request.param[1],
    )
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    for model, name in zip(
        convert_tokenizer(fast, with_detokenizer=True), ("tokenizer", "detokenizer"), strict=True
    ):
        ov.save_model(model, folder / f"openvino_{name}.xml")
    return Tokenizer(folder)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
    return ids


def pieces_of(tokenizer: Tokenizer, tokens: list[int]) -> list[Piece]:
    growing = GrowingText(tokenizer)
    return [*map(growing.push, tokens), growing.end()]


def test_pieces_are_the_text(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, TEXT)
    text = tokenizer.decode(tokens)
    pieces = [piece.text for piece in pieces_of(tokenizer, tokens)]
    assert "世界 🎉" in text
    assert "".join(pieces) == text
    # Nothing waits but half a character, and spaces that may be dropped.
    for count in range(len(tokens)):
        whole = tokenizer.decode(tokens[:count]).rstrip("\ufffd")
        assert len(whole) - len("".join(pieces[:count])) <= 2


@given(data=st.data())
def test_any_tokens_make_the_text_that_they_make_together(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = st.one_of(
        st.integers(0, 399),
        st.sampled_from(encode(tokenizer, "世🎉")),
        st.sampled_from(encode(tokenizer, " n't . ' , 've")),
    )
    tokens = data.draw(st.lists(ids, max_size=120))
    pieces = pieces_of(tokenizer, tokens)
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(tokens)


def test_a_special_token_is_spelled_beside_the_text(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "late<|user|>late")
    pieces = pieces_of(tokenizer, tokens)
    assert [piece.special for piece in pieces if piece.special] == ["<|user|>"]
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(tokens)


def test_a_token_costs_as_much_after_a_long_text_as_after_a_short_one(
    tokenizer: Tokenizer,
) -> None:
    lengths: list[int] = []

    class Counting:
        def decode(self, tokens: list[int], **kwargs: bool) -> str:
            lengths.append(len(tokens))
            return str(tokenizer.decode(tokens, **kwargs))

        def encode(self, text: str, **kwargs: bool) -> object:
            return tokenizer.encode(text, **kwargs)

    for text in (TEXT * 3, "🎉" * 60, "\ufffd" * 60, "a" * 99, " " * 99):
        pieces_of(Counting(), encode(tokenizer, text))
    assert max(lengths) < 60
