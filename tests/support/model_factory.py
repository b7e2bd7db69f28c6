"""Tiny random-weight models of several architectures, and exported ones changed a little."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ov_kvcrush.plan import PLAN_FILE, KVPlan
from ov_kvcrush.precisions import LayerPrecision
from tests.support.paths import NEEDLE

SLIDING_WINDOW = 48

# Those that are exported, by their name in transformers' classes: what differs from the common
# settings below.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32},
    "Mistral": {"head_dim": 16, "sliding_window": SLIDING_WINDOW},
    "Phi3": {"pad_token_id": 0, "sliding_window": SLIDING_WINDOW},
    "Gemma": {"head_dim": 32},
    "Gemma2": {
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": SLIDING_WINDOW,
        "attn_logit_softcapping": None,
    },
    "Gemma3": {
        "config_class": "Gemma3TextConfig",
        "head_dim": 32,
        "sliding_window": SLIDING_WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


def make_model(folder: Path, architecture: str = "Llama", seed: int = 0, **changes: Any) -> Path:
    """Save a random ``architecture``ForCausalLM with its tokenizer in ``folder``; returns it.

    Two layers of 64, 4 query and 2 KV heads, 5,120 tokens; ``changes`` go into its config.
    """
    import torch
    import transformers

    settings: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 5120,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **ARCHITECTURES.get(architecture, {}),
        **changes,
    }
    config_class = settings.pop("config_class", f"{architecture}Config")
    config = getattr(transformers, config_class)(**settings)
    torch.manual_seed(seed)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    model.save_pretrained(folder)
    copy_tokenizer(folder)
    return folder


def precisions_of(*kinds: str) -> list[LayerPrecision]:
    """Each layer's precision, said as keys/values: ``u8/u4``."""
    return [LayerPrecision(key, value) for key, value in (kind.split("/") for kind in kinds)]


def replanned(folder: Path, source: Path, precisions: Sequence[LayerPrecision]) -> Path:
    """Let ``folder`` hold the exported model of ``source`` with other precisions planned for it."""
    plan = KVPlan.load(source)
    assert plan is not None
    for path in source.iterdir():
        if path.name != PLAN_FILE:
            (folder / path.name).symlink_to(path)
    replace(plan, precisions=tuple(precisions)).save(folder)
    return folder


def retemplated(folder: Path, source: Path, template: str | None) -> Path:
    """Let ``folder`` hold the exported model of ``source`` with another chat template, or none."""
    for path in source.iterdir():
        if path.name not in ("openvino_tokenizer.xml", "chat_template.jinja"):
            (folder / path.name).symlink_to(path)
    net = ElementTree.parse(source / "openvino_tokenizer.xml")
    about = net.getroot().find("rt_info")
    assert about is not None
    place = about.find("chat_template")
    assert place is not None
    if template is None:
        about.remove(place)
    else:
        place.set("value", template)
    net.write(folder / "openvino_tokenizer.xml")
    return folder


def copy_tokenizer(folder: Path) -> None:
    """Copy the repository model's tokenizer to ``folder``."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(NEEDLE / name, folder)
