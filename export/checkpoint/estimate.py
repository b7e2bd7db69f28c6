"""What an export will be like, by the model's configuration and the sizes of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.checkpoint.weight_files import Checkpoint
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.plan import LayerGeometry

OPTIMUM_COMPRESSES_FROM = 1_000_000_000
"""Weights from which Optimum compresses to int8 when no weight format is given."""

_SCALE_BITS = 16
_BYTES = {"fp32": 4, "fp16": 2}
_DEFAULT_GROUP_SIZE = {"int4": 128, "nf4": 64, "cb4": 64, "mxfp4": 32}


def estimate_layers(config: PretrainedConfig) -> tuple[LayerGeometry, ...]:
    """Attention geometry by layer; empty where the configuration does not tell in the usual way.

    Raises:
        ExportError: it tells something that cannot be.
    """
    text = config.get_text_config()
    num_layers = _size(text, "num_hidden_layers")
    num_heads = _size(text, "num_attention_heads")
    if not num_layers or not num_heads:
        return ()
    head_size = _size(text, "head_dim") or _size(text, "hidden_size") // num_heads
    windows = _sliding_windows(text, num_layers)
    return tuple(
        LayerGeometry(
            num_query_heads=num_heads,
            num_kv_heads=_size(text, "num_key_value_heads") or num_heads,
            key_head_size=head_size,
            value_head_size=head_size,
            sliding_window=window,
        )
        for window in windows
    )


def _sliding_windows(text: PretrainedConfig, num_layers: int) -> list[int]:
    window = _size(text, "sliding_window")
    if not window or getattr(text, "use_sliding_window", True) is False:
        return [0] * num_layers
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"] * num_layers
    return [window if kind == "sliding_attention" else 0 for kind in kinds]


def context_length(config: PretrainedConfig) -> int:
    """Tokens the model was trained to read; 0 where the configuration does not say."""
    return _size(config.get_text_config(), "max_position_embeddings")


def vocab_size(config: PretrainedConfig) -> int:
    """Tokens that have an embedding; 0 where the configuration does not say."""
    return _size(config.get_text_config(), "vocab_size")


def _size(text: PretrainedConfig, name: str) -> int:
    """A number of the configuration; 0 where it is not told, or layer by layer."""
    value = getattr(text, name, None)
    if value is None or isinstance(value, list | tuple | dict):
        return 0
    if type(value) is not int or value < 0:
        raise ExportError(
            f"{name} is {value!r} in config.json, not a whole number",
            "Correct config.json, or download the model again.",
        )
    return value


def exported_bytes(checkpoint: Checkpoint, options: ExportOptions) -> int:
    """Bytes of the IR before compression."""
    num_bytes = _BYTES.get(options.weight_format or "")
    return checkpoint.num_parameters * num_bytes if num_bytes else checkpoint.num_bytes


def compressed_bytes(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> int:
    """Bytes of the IR compressed with Optimum's ``settings`` (bits, ratio, group size, …)."""
    vectors = checkpoint.num_vector_parameters
    embeddings = checkpoint.num_embedding_parameters
    others = checkpoint.num_parameters - vectors - embeddings
    bits = _bits(settings)
    in_backup = others * (1 - (settings.get("ratio") or 1.0))
    in_backup += 0 if settings.get("all_layers") else embeddings
    backup_bytes: float = 1
    if settings.get("backup_precision") == "none":
        backup_bytes = checkpoint.num_bytes / checkpoint.num_parameters
    in_few_bits = checkpoint.num_parameters - vectors - in_backup
    return int(vectors * 4 + in_backup * backup_bytes + in_few_bits * bits / 8)


def _bits(settings: Mapping[str, Any]) -> float:
    if settings.get("bits", 8) == 8:
        return 8
    kind = settings.get("dtype") or "int4"
    group = settings.get("group_size") or _DEFAULT_GROUP_SIZE[kind]
    if kind == "mxfp4":
        return 4 + 8 / group
    if group < 0:
        return 4
    zero_point_bits = 4 if kind == "int4" and not settings.get("sym") else 0
    return 4 + (_SCALE_BITS + zero_point_bits) / group
