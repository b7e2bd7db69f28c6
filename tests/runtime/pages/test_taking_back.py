"""Pages out of which wrong drafts are taken: what else lies in them is as if they had never been."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.key_codec import KEY_KINDS, read_all_keys
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.pages.taking_back import OpenPage
from tests.support.batches import batch
from tests.support.engines import F32, prompt_of

NUM_DRAFTS = 8


def model_of(folder: Path, kind: str) -> PagedModel:
    model = PagedModel(folder, precisions=LayerPrecision(kind, kind), properties=F32)
    model.reserve([4] * len(model.layers))
    return model


def keys_of(model: PagedModel, length: int) -> list[NDArray[np.float32]]:
    return [
        read_all_keys(
            memory.keys,
            KEY_KINDS[memory.layout.key_type],
            np.arange(4, dtype=np.int32),
            length,
            memory.layout.key_head_size,
        )
        for memory in model.memories
    ]


@pytest.mark.parametrize("kind", ["u8", "u4"])
@pytest.mark.parametrize("length", [40, 58, 63, 64])
@pytest.mark.parametrize("num_true", [1, 3, 8])
def test_true_keys_lie_there_as_finely_as_without_drafts(
    needle_int8_dir: Path, kind: str, length: int, num_true: int
) -> None:
    tokens = prompt_of(length + num_true, 1)
    wrong = prompt_of(1 + NUM_DRAFTS - num_true, 2)
    found: dict[str, list[NDArray[np.float32]]] = {}
    for way in ("without", "put right", "left"):
        model = model_of(needle_int8_dir, kind)
        model.forward(batch(model, tokens[:length], 0, []))
        pages = [OpenPage(memory, [0, 1, 2, 3], length) for memory in model.memories]
        before = [memory.keys[: length // PAGE_SIZE].copy() for memory in model.memories]
        if way == "without":
            for place in range(length, length + num_true):
                model.forward(batch(model, [tokens[place]], place, []))
        else:
            model.forward(batch(model, tokens[length:] + wrong, length, []))
        if way == "put right":
            for page in pages:
                page.take_back(1 + NUM_DRAFTS, num_true)
        for memory, kept in zip(model.memories, before, strict=True):
            np.testing.assert_array_equal(memory.keys[: len(kept)], kept)
        found[way] = keys_of(model, length + num_true)
    exact = model_of(needle_int8_dir, "f32")
    exact.forward(batch(exact, tokens, 0, []))
    wanted = keys_of(exact, length + num_true)

    def error(way: str) -> float:
        last = slice((length + num_true - 1) // PAGE_SIZE * PAGE_SIZE, None)
        pairs = zip(found[way], wanted, strict=True)
        # The deeper layers' keys depend on what was rounded before them.
        return float(np.mean([np.abs(a - b)[:, last].mean() for a, b in list(pairs)[:1]]))

    assert error("put right") <= error("left") * 1.001
    assert error("put right") <= error("without") * 1.6


@pytest.mark.parametrize("kind", ["u8", "u4"])
def test_what_lay_there_before_keeps_its_bytes_where_nothing_outside_its_range_came(
    needle_int8_dir: Path, kind: str
) -> None:
    model, tokens = model_of(needle_int8_dir, kind), prompt_of(50, 1)
    model.forward(batch(model, tokens, 0, []))
    pages = [OpenPage(memory, [0, 1, 2, 3], 50) for memory in model.memories]
    before = [memory.keys[1].copy() for memory in model.memories]
    # A token that lies there already has, in the first layer, nearly the key that it had.
    model.forward(batch(model, [tokens[40], *prompt_of(NUM_DRAFTS, 2)], 50, []))
    for page in pages:
        page.take_back(1 + NUM_DRAFTS, 1)
    for memory, kept in zip(model.memories, before, strict=True):
        header = memory.layout.key_header_bytes
        scales = memory.keys[1][:, :header].copy().view(np.float32)
        same = scales == kept[:, :header].copy().view(np.float32)
        assert same.mean() > 0.5
        rows = slice(header, header + (50 - PAGE_SIZE) * memory.layout.key_row_bytes)
        unchanged = memory.keys[1][:, rows] == kept[:, rows]
        assert unchanged.mean() > 0.5
