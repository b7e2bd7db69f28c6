"""A real GGUF file: what is exported says what the file's own weights say, and chats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from openvino_genai import GenerationFinishReason

from ov_kvcrush import LLMPipeline
from ov_kvcrush.export.gguf.model_file import GgufModel
from ov_kvcrush.export.texts.texts import find_text
from ov_kvcrush.model_folder import context_length, load_tokenizer
from ov_kvcrush.plan import KVPlan
from tests.support.gguf_reference import (
    TEXTS,
    exported_logits,
    reference_logits,
    reference_tokenizer,
)

pytestmark = pytest.mark.real

NUM_TOKENS = 600
# With zeros rounded to whole steps, as the reader leaves them, SmolLM2 in Q4_1 is 0.22 nats off.
MOST_NATS = 0.0005


def test_it_says_what_its_weights_say(real_gguf: Path, real_model: Path) -> None:
    text = find_text().content[2000:8000]
    encoded = load_tokenizer(real_model).encode(text).input_ids.data[0]
    tokens = [int(token) for token in encoded][:NUM_TOKENS]
    wanted = _log_probabilities(reference_logits(real_gguf, tokens))
    found = _log_probabilities(exported_logits(real_model, tokens))
    assert (np.exp(wanted) * (wanted - found)).sum(axis=1).mean() < MOST_NATS


def test_its_tokenizer_reads_as_its_vocabulary_means(real_gguf: Path, real_model: Path) -> None:
    tokenizer, reference = load_tokenizer(real_model), reference_tokenizer(real_gguf)
    file = GgufModel(real_gguf)
    tokens = file.texts("tokenizer.ggml.tokens")
    kinds = file.numbers("tokenizer.ggml.token_type")
    control = " ".join(token for token, kind in zip(tokens, kinds, strict=True) if kind == 3)
    for text in (*TEXTS, control, find_text().content[:20_000]):
        found = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
        assert found == reference.encode(text, add_special_tokens=False).ids, text[:60]
        assert tokenizer.decode(found, skip_special_tokens=False) == text


def test_its_plan_says_what_it_is(real_gguf: Path, real_model: Path) -> None:
    plan, file = KVPlan.load(real_model), GgufModel(real_gguf)
    assert plan is not None
    assert plan.weights["gguf"] == real_gguf.name
    assert plan.model_type == file.architecture
    assert plan.context_length == context_length(real_model) > 0
    assert len(plan.layer_shares) == len(plan.layers)


def test_it_chats_and_stops_at_the_end_of_its_turn(real_pipeline: LLMPipeline) -> None:
    chat = real_pipeline.chat()
    results = chat.ask("What is the capital of France?", max_new_tokens=100)
    assert "Paris" in results.texts[0]
    assert results.finish_reasons[0] == GenerationFinishReason.STOP
    assert "<|" not in results.texts[0]


def test_its_settings_name_all_end_tokens(real_gguf: Path, real_model: Path) -> None:
    settings = json.loads((real_model / "generation_config.json").read_text())
    own = GgufModel(real_gguf).number("tokenizer.ggml.eos_token_id")
    assert own in settings["eos_token_id"]


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
