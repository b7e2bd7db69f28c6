"""What a GGUF file says of its model, and where in an exported folder that is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ov_kvcrush.export.gguf.model_file import GgufModel
from ov_kvcrush.model_folder import CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE
from ov_kvcrush.plan import LayerGeometry

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""transformers' name for each architecture that is read."""

# Fields that name an end token: of the text, of a turn, of a message to a tool.
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
# How end tokens are written: files name one of them, where models end with several.
_END_SPELLINGS = frozenset(
    {
        "</s>",
        "<|end_of_text|>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|im_end|>",
        "<｜end▁of▁sentence｜>",
    }
)
# The kind of tokens that stand for no text.
_CONTROL = 3


def head_size(model: GgufModel) -> int:
    """Of the keys, and in these architectures of the values."""
    heads = model.number(model.named("attention.head_count"))
    stated = model.number(model.named("attention.key_length"))
    return stated or model.number(model.named("embedding_length")) // max(1, heads)


def geometry(model: GgufModel) -> tuple[LayerGeometry, ...]:
    """Attention geometry by layer."""
    heads = model.number(model.named("attention.head_count"))
    kv_heads = model.number(model.named("attention.head_count_kv")) or heads
    size = head_size(model)
    layer = LayerGeometry(heads, kv_heads, size, size)
    return (layer,) * model.number(model.named("block_count"))


def context_length(model: GgufModel) -> int:
    """Tokens the model was trained to read; 0 where the file does not say."""
    return model.number(model.named("context_length"))


def main_kind(model: GgufModel) -> str:
    """The kind that most weights are stored in."""
    sizes: dict[str, int] = {}
    for tensor in model.tensors.values():
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.size
    return max(sizes, key=lambda kind: sizes[kind])


def control_tokens(model: GgufModel) -> list[int]:
    """Ids of the tokens that stand for no text."""
    kinds = model.numbers("tokenizer.ggml.token_type")
    return [number for number, kind in enumerate(kinds) if kind == _CONTROL]


def end_tokens(model: GgufModel) -> list[int]:
    """Ids of all tokens that end an answer, the file's own first one first."""
    tokens = model.texts("tokenizer.ggml.tokens")
    named = [f"tokenizer.ggml.{name}" for name in _ENDS]
    ends = [model.number(name) for name in named if model.has(name)]
    ends += [number for number in control_tokens(model) if tokens[number] in _END_SPELLINGS]
    return list(dict.fromkeys(ends))


def chat_template(model: GgufModel) -> str:
    """The template of chats; empty where the model has none."""
    return model.text("tokenizer.chat_template")


def write_description(model: GgufModel, folder: Path) -> None:
    """Write what a Hugging Face model tells in its small files to ``folder``.

    That is the configuration, the end tokens, and the chat template where there is one.
    """
    _write_json(folder / CONFIG_FILE, _config(model))
    _write_json(folder / GENERATION_FILE, _generation_settings(model))
    if template := chat_template(model):
        (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")


def _config(model: GgufModel) -> dict[str, Any]:
    heads = model.number(model.named("attention.head_count"))
    config = {
        "architectures": [CLASSES[model.architecture]],
        "model_type": model.architecture,
        "max_position_embeddings": context_length(model),
        "vocab_size": model.tensors["token_embd.weight"].shape[0],
        "hidden_size": model.number(model.named("embedding_length")),
        "intermediate_size": model.number(model.named("feed_forward_length")),
        "num_hidden_layers": model.number(model.named("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": model.number(model.named("attention.head_count_kv")) or heads,
        "head_dim": head_size(model),
        "rms_norm_eps": model.real(model.named("attention.layer_norm_rms_epsilon")),
        "rope_theta": model.real(model.named("rope.freq_base"), 10_000.0),
        "tie_word_embeddings": "output.weight" not in model.tensors,
    }
    return {name: value for name, value in config.items() if value != 0}


def _generation_settings(model: GgufModel) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, field in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        if model.has(f"tokenizer.ggml.{field}"):
            settings[name] = model.number(f"tokenizer.ggml.{field}")
    if ends := end_tokens(model):
        settings["eos_token_id"] = ends
    return settings


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
