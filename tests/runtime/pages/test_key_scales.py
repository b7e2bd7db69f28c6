"""Why keys are not smoothed at export: the plugin's scales are a channel's own, and undo it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ov_kvcrush.export import ExportOptions, export_model
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_model import PagedModel
from tests.support.batches import batch
from tests.support.engines import F32, prompt_of
from tests.support.exported import exported_random
from tests.support.model_factory import make_model

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's

KV_HEADS, QUERIES_A_HEAD, HALF = 2, 2, 8


@pytest.fixture(scope="module")
def smoothed_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the factory whose keys are scaled."""
    smoothed = make_model(tmp_path_factory.mktemp("smoothed") / "source")
    path = smoothed / "model.safetensors"
    tensors = load_file(path)
    # Powers of two, so that they round nothing; equal within a rotary pair, so that RoPE lets them
    # through. Keys times these, queries divided by them: the same function.
    exponents = torch.arange(KV_HEADS * HALF).reshape(KV_HEADS, HALF) % 7 - 3
    scales = torch.exp2(exponents.float()).repeat(1, 2)
    for name, tensor in tensors.items():
        if "k_proj" in name:
            tensor *= scales.reshape(-1, 1)
        elif "q_proj" in name:
            tensor /= scales.repeat_interleave(QUERIES_A_HEAD, dim=0).reshape(-1, 1)
    save_file(tensors, path, {"format": "pt"})
    output = smoothed.parent / "exported"
    export_model(
        ExportOptions(model=str(smoothed), output=output, weight_format="fp32", calibrate=False)
    )
    return output


@pytest.mark.parametrize("kind", ["u8", "u4"])
def test_scales_of_keys_change_no_bit(kind: str, smoothed_dir: Path) -> None:
    tokens = prompt_of(80, 1)
    found = []
    for folder in (exported_random("Llama"), smoothed_dir):
        model = PagedModel(folder, precisions=LayerPrecision(kind, kind), properties=F32)
        model.reserve([3] * len(model.layers))
        told = model.forward(batch(model, tokens, 0, [len(tokens) - 1]))
        found.append(told.logits.copy())
    np.testing.assert_array_equal(found[0], found[1])
