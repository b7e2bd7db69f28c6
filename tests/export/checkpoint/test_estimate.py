from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.export import ExportOptions
from ov_kvcrush.export.checkpoint.estimate import compressed_bytes, exported_bytes
from ov_kvcrush.export.checkpoint.weight_files import Checkpoint, weight_files

# 1000 weights in layers, 200 in embeddings, 10 in norms; two bytes each.
CHECKPOINT = Checkpoint(2420, 1210, num_embedding_parameters=200, num_vector_parameters=10)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bits": 8}, 40 + 200 + 1000),
        # A group of 32 shares a scale of 16 bits and a zero point of 4: 4.625 bits a weight.
        ({"bits": 4, "group_size": 32}, 40 + 200 + 1000 * 4.625 / 8),
        ({"bits": 4, "group_size": 32, "sym": True}, 40 + 200 + 1000 * 4.5 / 8),
        ({"bits": 4, "group_size": 32, "ratio": 0.5}, 40 + 200 + 500 + 500 * 4.625 / 8),
        ({"bits": 4, "group_size": 32, "all_layers": True}, 40 + 1200 * 4.625 / 8),
        ({"bits": 4, "group_size": 32, "backup_precision": "none"}, 40 + 400 + 1000 * 4.625 / 8),
        ({"bits": 4, "group_size": -1}, 40 + 200 + 1000 * 4 / 8),
        ({"bits": 4, "dtype": "mxfp4"}, 40 + 200 + 1000 * 4.25 / 8),
        ({"bits": 4, "dtype": "nf4", "group_size": 64}, 40 + 200 + 1000 * 4.25 / 8),
    ],
)
def test_compressed_sizes(settings: dict[str, Any], expected: float) -> None:
    assert compressed_bytes(CHECKPOINT, settings) == int(expected)


@pytest.mark.parametrize(
    ("weight_format", "expected"), [(None, 2420), ("fp16", 2420), ("fp32", 4840), ("int4", 2420)]
)
def test_sizes_before_compression(weight_format: str | None, expected: int) -> None:
    options = ExportOptions(model="model", output=Path("output"), weight_format=weight_format)
    assert exported_bytes(CHECKPOINT, options) == expected


def test_the_files_that_transformers_would_load_are_told() -> None:
    names = [
        "consolidated.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.fp16.safetensors",
        "pytorch_model.bin",
        "training_args.bin",
    ]
    assert weight_files(names) == names[1:3]
    assert weight_files(names, "fp16") == ["model.fp16.safetensors"]
    assert weight_files(["pytorch_model.bin", "training_args.bin"]) == ["pytorch_model.bin"]
    assert weight_files(["training_args.bin"]) == []
