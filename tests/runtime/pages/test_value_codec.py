"""Values read back from the plugin's pages, in every type it stores them in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.value_codec import read_values
from tests.support.batches import batch
from tests.support.engines import F32, prompt_of

LENGTH = 70


def values_in(folder: Path, precision: LayerPrecision) -> NDArray[np.float32]:
    properties = {} if precision.value == "bf16" else F32
    model = PagedModel(folder, precisions=precision, properties=properties)
    model.reserve([3] * len(model.layers))
    model.forward(batch(model, prompt_of(LENGTH), 0, [0]))
    pages = np.arange(3, dtype=np.int32)
    return read_values(model.memories[0], precision.value, 64, pages, LENGTH)


@pytest.mark.parametrize(
    ("precision", "steps"),
    [
        (LayerPrecision("bf16", "bf16"), 100),
        (LayerPrecision("u8", "u8"), 255),
        (LayerPrecision("u8", "u8", value_group_size=16), 255),
        (LayerPrecision("u8", "u4"), 15),
        (LayerPrecision("u8", "u4", value_group_size=32), 15),
    ],
)
def test_values_are_what_a_cache_in_f32_holds(
    needle_f32_dir: Path, precision: LayerPrecision, steps: int
) -> None:
    exact = values_in(needle_f32_dir, LayerPrecision("f32", "f32"))
    assert exact.shape == (4, LENGTH, 64)
    found = values_in(needle_f32_dir, precision)
    groups = exact.reshape(4, LENGTH, -1, precision.value_group_size or 64)
    step = np.ptp(groups, axis=3, keepdims=True) / steps
    error = np.abs(found - exact).reshape(groups.shape)
    assert (error <= 0.51 * step + 1e-5).mean() > 0.999
    assert error.max() < 2 * step.max()
