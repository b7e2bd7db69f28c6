"""The tokenizer of an exported GGUF file reads and writes texts as its vocabulary means them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ov_kvcrush.export import ExportOptions, export_model
from ov_kvcrush.export.gguf.description import end_tokens
from ov_kvcrush.export.gguf.model_file import GgufModel
from ov_kvcrush.model_folder import context_length, load_tokenizer
from ov_kvcrush.pipeline.special_tokens import added_tokens, find_special_tokens
from tests.support.gguf_factory import CONTEXT_LENGTH, vocabulary, write_gguf
from tests.support.gguf_reference import TEXTS, reference_tokenizer

BOS, EOS, USER = 1, 2, 3


def export(model: Path) -> Path:
    options = ExportOptions(str(model), model.parent / "exported", calibrate=False)
    export_model(options)
    return options.output


@pytest.mark.parametrize("split", ["qwen2", "deepseek-r1-qwen", "llama-bpe", "smollm", "gpt-2"])
def test_texts_are_read_as_the_vocabulary_means_them(tmp_path: Path, split: str) -> None:
    model = write_gguf(tmp_path / "model.gguf", fields={"tokenizer.ggml.pre": split})
    tokenizer, reference = load_tokenizer(export(model)), reference_tokenizer(model)
    for text in TEXTS:
        found = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
        assert found == reference.encode(text, add_special_tokens=False).ids, text
        assert tokenizer.decode(found, skip_special_tokens=False) == text


def test_a_long_text_is_read_whole(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(export(write_gguf(tmp_path / "model.gguf")))
    assert tokenizer.encode("one two three four " * 4000).input_ids.shape[1] >= 16_000


@pytest.mark.parametrize(
    ("split", "stated", "begins"),
    [("qwen2", True, True), ("qwen2", None, False), ("llama-bpe", None, True)],
)
def test_a_text_begins_as_the_file_says(
    tmp_path: Path, split: str, stated: bool | None, begins: bool
) -> None:
    fields = {"tokenizer.ggml.pre": split, "tokenizer.ggml.add_bos_token": stated}
    tokenizer = load_tokenizer(export(write_gguf(tmp_path / "model.gguf", fields=fields)))
    plain = tokenizer.encode("Hello", add_special_tokens=False).input_ids.data[0].tolist()
    begun = tokenizer.encode("Hello", add_special_tokens=True).input_ids.data[0].tolist()
    assert begun == [BOS, *plain] if begins else begun == plain
    several = tokenizer.encode(["Hello", "Hello and more of it"]).input_ids.data
    assert (several == BOS).any() == begins


def test_tokens_that_are_text_are_shown_and_control_tokens_are_not(tmp_path: Path) -> None:
    tokens, kinds = vocabulary()
    tokens[10:12], kinds[10:12] = ["<think>", "</think>"], [4, 4]
    fields = {"tokenizer.ggml.token_type": kinds}
    model = write_gguf(tmp_path / "model.gguf", fields=fields, tokens=tokens, merges=0)
    folder = export(model)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("<think>").input_ids.data[0].tolist() == [10]
    assert tokenizer.decode([10, 11, EOS]) == "<think></think>"
    assert tokenizer.decode([10, 11, EOS], skip_special_tokens=False).endswith("<|eos|>")
    found = find_special_tokens(tokenizer, added_tokens(folder), "<think>")
    assert found.markup == {"<think>": 10, "</think>": 11}
    assert found.special["<|user|>"] == USER


def test_what_a_hugging_face_model_tells_in_small_files(tmp_path: Path) -> None:
    tokens, _ = vocabulary()
    tokens[4] = "<|im_end|>"
    model = write_gguf(tmp_path / "model.gguf", tokens=tokens, merges=0)
    assert end_tokens(GgufModel(model)) == [EOS, 4]
    folder = export(model)
    settings = json.loads((folder / "generation_config.json").read_text())
    assert settings == {"bos_token_id": BOS, "pad_token_id": 0, "eos_token_id": [EOS, 4]}
    assert context_length(folder) == CONTEXT_LENGTH
    assert "<|assistant|>" in (folder / "chat_template.jinja").read_text()
