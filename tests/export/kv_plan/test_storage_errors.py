"""What is stored wrongly is computed as the plugin stores it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ov_kvcrush.export.kv_plan.sensitivity import EXACT
from ov_kvcrush.export.kv_plan.storage_errors import Storage, quantized_keys, quantized_values
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages import key_codec
from tests.support.batches import batch
from tests.support.engines import F32


@pytest.mark.parametrize("group", [0, 16])
@pytest.mark.parametrize("kind", ["u8", "u4"])
def test_errors_are_those_of_the_plugins_own_bytes(
    needle_f32_dir: Path, kind: str, group: int
) -> None:
    tokens = np.random.default_rng(1).integers(8, 5000, 96).tolist()

    def first_layer(precision: LayerPrecision) -> PagedModel:
        model = PagedModel(needle_f32_dir, precisions=precision, properties=F32)
        model.reserve([3] * 8)
        model.forward(batch(model, tokens, 0, [0]))
        return model

    exact = first_layer(EXACT).memories[0]
    keys = exact.keys.view(np.float32).reshape(3, 4, 32, 64).transpose(1, 0, 2, 3)
    values = exact.values.view(np.float32).reshape(3, 4, 32, 64).transpose(1, 0, 2, 3)
    keys, values = keys.reshape(4, 96, 64), values.reshape(4, 96, 64)
    stored = first_layer(LayerPrecision(kind, kind, value_group_size=group)).memories[0]
    read = np.empty((32, 64), np.float32)
    for head in range(4):
        key_codec.read_keys(stored.keys[1, head], key_codec.KEY_KINDS[kind], 32, 64, read)
        ours = quantized_keys(keys, Storage(kind))[head, 32:64]
        # What lies halfway between two codes may be rounded either way.
        assert (np.abs(ours - read) > 1e-5).mean() < 0.002
        # Values: the scale, the zero and the codes of one group of a token after the other.
        groups = stored.values[1, head, 5].reshape(64 // (group or 64), -1)
        scale, zero = np.ascontiguousarray(groups[:, :8]).view(np.float32).T
        codes = groups[:, 8:]
        if kind == "u4":
            codes = np.stack([codes >> 4, codes & 15], axis=2).reshape(len(groups), -1)
        theirs = (codes.astype(np.float32) - zero[:, None]) * scale[:, None]
        ours = quantized_values(values, Storage(kind, group))[head, 32 + 5]
        assert (np.abs(ours - theirs.ravel()) > 1e-5).sum() <= 1
