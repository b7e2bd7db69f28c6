"""Pages out of which wrong drafts are taken: the rest is as if they had never been there."""

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
PAGES = [0, 1, 2, 3]


def model_of(folder: Path, kind: str) -> PagedModel:
    model = PagedModel(folder, precisions=LayerPrecision(kind, kind), properties=F32)
    model.reserve([len(PAGES)] * len(model.layers))
    return model


def keys_of(model: PagedModel, length: int) -> list[NDArray[np.float32]]:
    return [
        read_all_keys(
            memory.keys,
            KEY_KINDS[memory.layout.key_type],
            np.array(PAGES, np.int32),
            length,
            memory.layout.key_head_size,
        )
        for memory in model.memories
    ]


@pytest.mark.parametrize("kind", ["u8", "u4"])
@pytest.mark.parametrize("num_true", [1, 3])
def test_keys_stay_as_fine_as_without_drafts(
    needle_int8_dir: Path, kind: str, num_true: int
) -> None:
    first, end = 40, 94
    tokens, random = prompt_of(end, 1), np.random.default_rng(2)
    exact = model_of(needle_int8_dir, "f32")
    exact.forward(batch(exact, tokens, 0, []))
    errors: dict[str, float] = {}
    for way in ("without", "put right", "left"):
        model = model_of(needle_int8_dir, kind)
        model.forward(batch(model, tokens[:first], 0, []))
        for place in range(first, end, num_true):
            known = tokens[place : place + num_true]
            pages = [OpenPage(memory, PAGES, place) for memory in model.memories]
            before = [memory.keys[: place // PAGE_SIZE].copy() for memory in model.memories]
            wrong = [] if way == "without" else random.integers(8, 5000, NUM_DRAFTS).tolist()
            model.forward(batch(model, known + wrong, place, []))
            if way == "put right":
                for page in pages:
                    page.take_back(len(known + wrong), num_true)
            for memory, kept in zip(model.memories, before, strict=True):
                np.testing.assert_array_equal(memory.keys[: len(kept)], kept)
        # In the first layer keys do not depend on what was rounded before them.
        found, wanted = keys_of(model, end)[0], keys_of(exact, end)[0]
        errors[way] = float(np.abs(found - wanted)[:, first:].mean())
    assert errors["put right"] < 0.9 * errors["left"]
    assert errors["put right"] < 1.25 * errors["without"]


@pytest.mark.parametrize("kind", ["u8", "u4"])
def test_what_lay_there_before_keeps_its_bytes_where_nothing_outside_its_range_came(
    needle_int8_dir: Path, kind: str
) -> None:
    model, tokens = model_of(needle_int8_dir, kind), prompt_of(50, 1)
    model.forward(batch(model, tokens, 0, []))
    pages = [OpenPage(memory, PAGES, 50) for memory in model.memories]
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
