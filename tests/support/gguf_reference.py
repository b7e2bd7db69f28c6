"""What a GGUF file's model says, computed by PyTorch from its weights; and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models as tokenizer_models

from ov_kvcrush.export.gguf.description import CLASSES, head_size
from ov_kvcrush.export.gguf.model_file import GgufModel
from ov_kvcrush.export.gguf.stored_anew import weights_of

_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# As the models' own tokenizer.json have it.
_QWEN_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {
    "qwen2": _QWEN_2,
    "deepseek-r1-qwen": _QWEN_2,
    "llama-bpe": _QWEN_2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1),
}
_CONTROL, _USER_DEFINED = 3, 4

TEXTS = (
    "Hello, world!",
    "  Two spaces, a tab\tand two lines\n\nwith 1,234.56 € – naïve café, 日本語 и русский 🙂",
    "I'm sure you're right: THEY'LL say it's done, don't   ",
    "def f(x):\n    return x**2  # comment\n\n\n\tif (a<b>c) | d:\n\t\tpass\r\n\r\n",
    "12 345 1234567890 3.14 ٣٤٥ Ⅷ ½ x1y2",
    "👩‍👩‍👧‍👦 🇩🇪\u00a0nbsp\u3000ideographic",
    " \n \n  x   ",
    "\x01 control \x7f",
    "<|user|>Hi <|eos|>| eos |<|assistant|> done<|eos|>",
)
"""With what tokenizers differ in: spaces, digits, scripts, code, special tokens, half of them."""


def reference_logits(
    path: Path, tokens: Sequence[int], frequencies: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """``[tokens, vocab]`` in f32; ``frequencies`` of positions instead of the plain ones."""
    file = GgufModel(path)
    model = _transformers_model(file)
    model.load_state_dict(_state(file))
    if frequencies is not None:
        model.model.rotary_emb.inv_freq = torch.from_numpy(frequencies)
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([list(tokens)])).logits[0].numpy()
    return logits


def exported_logits(folder: Path, tokens: Sequence[int]) -> NDArray[np.float32]:
    """The same of an exported model, by the plugin in f32 and without rounding of its own."""
    exact = {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "KV_CACHE_PRECISION": "f32",
        "KEY_CACHE_PRECISION": "f32",
        "VALUE_CACHE_PRECISION": "f32",
    }
    request = (
        ov.Core().compile_model(folder / "openvino_model.xml", "CPU", exact).create_infer_request()
    )
    count = len(tokens)
    request.infer(
        {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, count), np.int64),
            "position_ids": np.arange(count, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
    )
    logits: NDArray[np.float32] = request.get_tensor("logits").data[0].copy()
    return logits


def reference_tokenizer(path: Path) -> RustTokenizer:
    """The tokenizer that the vocabulary, merges and kinds of tokens in a GGUF file mean."""
    file = GgufModel(path)
    tokens = file.texts("tokenizer.ggml.tokens")
    kinds = file.numbers("tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ")) for pair in file.texts("tokenizer.ggml.merges")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = RustTokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=merges))
    split = file.text("tokenizer.ggml.pre")
    steps: list[Any] = []
    if split == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True)]
    elif split in _SPLITS:
        steps = [pre_tokenizers.Split(Regex(_SPLITS[split]), "isolated")]
    # Which else splits as GPT-2 does.
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split not in _SPLITS))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    for wanted, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        tokenizer.add_tokens(
            [
                AddedToken(token, special=special, normalized=False)
                for token, kind in zip(tokens, kinds, strict=True)
                if kind == wanted
            ]
        )
    return tokenizer


def _transformers_model(file: GgufModel) -> Any:
    name = CLASSES[file.architecture]
    config = getattr(transformers, name.replace("ForCausalLM", "Config"))(
        hidden_size=file.number(file.named("embedding_length")),
        intermediate_size=file.number(file.named("feed_forward_length")),
        num_hidden_layers=file.number(file.named("block_count")),
        num_attention_heads=file.number(file.named("attention.head_count")),
        num_key_value_heads=file.number(file.named("attention.head_count_kv")),
        head_dim=head_size(file),
        vocab_size=len(file.texts("tokenizer.ggml.tokens")),
        max_position_embeddings=file.number(file.named("context_length")),
        rms_norm_eps=file.real(file.named("attention.layer_norm_rms_epsilon")),
        rope_theta=file.real(file.named("rope.freq_base")),
        tie_word_embeddings=False,
    )
    return getattr(transformers, name)(config).eval()


def _state(file: GgufModel) -> dict[str, torch.Tensor]:
    heads = {
        "attn_q": file.number(file.named("attention.head_count")),
        "attn_k": file.number(file.named("attention.head_count_kv")),
    }
    whole = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    state = {}
    for name, tensor in file.tensors.items():
        weights = torch.from_numpy(weights_of(tensor).copy())
        if name in whole:
            state[whole[name]] = weights
        elif name.startswith("blk."):
            _, number, part, kind = name.split(".")
            if file.architecture == "llama" and part in heads and kind == "weight":
                # Rows whose elements turn together are neighbours there.
                pairs = weights.reshape(heads[part], -1, 2, weights.shape[1])
                weights = pairs.transpose(1, 2).reshape(weights.shape)
            state[f"model.layers.{number}.{_PARTS[part]}.{kind}"] = weights
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    return state
