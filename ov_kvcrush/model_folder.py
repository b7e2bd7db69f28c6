"""What an ``LLMPipeline`` is made of: arguments, the folder's tokenizer and settings, an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ov_kvcrush.errors import ModelError

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer

GRAPH_FILE = "openvino_model.xml"
WEIGHTS_FILE = "openvino_model.bin"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer beside the IR; ModelError says what is missing."""
    from openvino_genai import Tokenizer

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
    from openvino_genai import GenerationConfig

    path = folder / "generation_config.json"
    config = GenerationConfig(path) if path.exists() else GenerationConfig()
    if config.eos_token_id == -1 and tokenizer.get_eos_token_id() != -1:
        config.set_eos_token_id(tokenizer.get_eos_token_id())
    return config
