"""What an ``LLMPipeline`` is made of: arguments, the folder's tokenizer and settings, an engine."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from openvino_genai import GenerationConfig, Tokenizer

from ov_kvcrush.errors import ConfigError, ModelError, did_you_mean
from ov_kvcrush.runtime.generation.request import Engine

ENGINES = {
    "paged": ("ov_kvcrush.runtime.paged.engine", "PagedEngine"),
    "genai": ("ov_kvcrush.runtime.genai.engine", "GenaiEngine"),
}
"""``paged`` is our own, on CPU; ``genai`` drives openvino_genai's, on any device it serves."""


def read_positional(
    args: tuple[Any, ...],
    tokenizer: Tokenizer | None,
    device: str | None,
    config: Mapping[str, Any] | None,
) -> tuple[Tokenizer | None, str | None, Mapping[str, Any] | None]:
    """openvino_genai's two orders: (tokenizer, device, config) and (device, config)."""
    rest = list(args)
    if rest and isinstance(rest[0], Tokenizer):
        tokenizer = rest.pop(0)
    if rest and isinstance(rest[0], str):
        device = rest.pop(0)
    if rest and isinstance(rest[0], Mapping):
        config = rest.pop(0)
    if rest:
        raise ConfigError(
            f"LLMPipeline does not take {type(rest[0]).__name__} {rest[0]!r} there",
            "Positional arguments: models_path, [tokenizer], device, config.",
        )
    return tokenizer, device, config


def engine_class(name: str) -> Callable[..., Engine]:
    """The engine called ``name``; ConfigError where there is none."""
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}", did_you_mean(name, ENGINES))
    module, attribute = ENGINES[name]
    engine: Callable[..., Engine] = getattr(importlib.import_module(module), attribute)
    return engine


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer beside the IR; ModelError says what is missing."""
    if not folder.is_dir():
        raise ModelError(f"no such model folder: {folder}", "Make one with: ov-kvcrush export")
    for name in ("openvino_tokenizer.xml", "openvino_detokenizer.xml"):
        if not (folder / name).exists():
            has_model = (folder / "openvino_model.xml").exists()
            raise ModelError(
                f"{folder} holds no {name}"
                if has_model
                else f"{folder} holds no OpenVINO model (openvino_model.xml)",
                "Export the model again with: ov-kvcrush export -m MODEL OUTPUT",
            )
    try:
        return Tokenizer(folder)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {reason}") from error


def load_generation_config(folder: Path, tokenizer: Tokenizer) -> GenerationConfig:
    """The model's own settings, with an end-of-sequence token wherever one is known."""
    path = folder / "generation_config.json"
    config = GenerationConfig(path) if path.exists() else GenerationConfig()
    if config.eos_token_id == -1 and tokenizer.get_eos_token_id() != -1:
        config.set_eos_token_id(tokenizer.get_eos_token_id())
    return config
