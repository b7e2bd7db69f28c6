"""KV heads with a cache of their own: the same bits as all of a layer together, whatever groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.cache_layer import HeadGrouping, each_head, undivided
from tests.support.batches import batch
from tests.support.engines import F32, prompt_of
from tests.support.gates import random_gate
from tests.support.head_groups import mixed

TOKENS = prompt_of(70)


def run(
    folder: Path, grouping: HeadGrouping, precisions: Any, **settings: Any
) -> tuple[PagedModel, list[tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]]]:
    """Of a prompt in two chunks and one more token: logits, and by head queries and gates."""
    model = PagedModel(folder, precisions=precisions, grouping=grouping, **settings)
    model.reserve([4] * len(model.layers))
    told = []
    for past, end in ((0, 40), (40, 69), (69, 70)):
        forward = model.forward(batch(model, TOKENS[past:end], past, list(range(end - past))))
        queries = by_head(model, forward.queries)
        told.append((forward.logits.copy(), queries, by_head(model, forward.gates)))
    return model, told


def by_head(model: PagedModel, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """By layer of the model and KV head what is by cache layer ``[rows, heads * width]``."""
    found: dict[tuple[int, int], np.ndarray] = {}
    for layer, rows in zip(model.cache_layers, parts, strict=len(parts) > 0):
        columns = np.split(rows, len(layer.heads), axis=1)
        found |= {(layer.layer, h): c.copy() for h, c in zip(layer.heads, columns, strict=True)}
    return [found[key] for key in sorted(found)]


def stored(model: PagedModel) -> list[tuple[np.ndarray, np.ndarray]]:
    """By layer of the model and KV head, the first pages of keys and values."""
    found = {}
    for layer, memory in zip(model.cache_layers, model.memories, strict=True):
        for place, head in enumerate(layer.heads):
            found[layer.layer, head] = (memory.keys[:3, place], memory.values[:3, place])
    return [found[key] for key in sorted(found)]


@pytest.mark.parametrize("grouping", [each_head, mixed])
@pytest.mark.parametrize(
    "precisions",
    [LayerPrecision("u8", "u8"), LayerPrecision("u8", "u4"), LayerPrecision("f32", "f32")],
    ids=str,
)
def test_groups_give_the_same_bits_as_the_whole(
    needle_int8_dir: Path, grouping: HeadGrouping, precisions: LayerPrecision
) -> None:
    whole, wanted = run(needle_int8_dir, undivided, precisions, properties=F32)
    divided, found = run(needle_int8_dir, grouping, precisions, properties=F32)
    assert len(divided.layers) > len(whole.layers)
    assert divided.page_bytes == whole.page_bytes
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        for mine, its in zip(ours[1], theirs[1], strict=True):
            np.testing.assert_array_equal(mine, its)
    for kept, wanted_pages in zip(stored(divided), stored(whole), strict=True):
        np.testing.assert_array_equal(kept[0], wanted_pages[0])
        np.testing.assert_array_equal(kept[1], wanted_pages[1])


def test_groups_in_parts_with_a_gate_and_another_precision_for_decoding(
    needle_int8_dir: Path,
) -> None:
    """All at once: each alone is the same for layers."""
    precisions = [LayerPrecision("u8", "u8")] * 3 + [LayerPrecision("u8", "u4")] * 5
    settings: dict[str, Any] = {
        "decode_precision": "f32",
        "gate": random_gate(needle_int8_dir),
        "properties": {"INFERENCE_PRECISION_HINT": "f32"},
    }
    whole, wanted = run(needle_int8_dir, undivided, precisions, **settings)
    divided, found = run(needle_int8_dir, mixed, precisions, **settings)
    assert [len(part.model_layers) for part in divided._compiled._parts] == [3, 5]
    assert divided.precisions == whole.precisions
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        for mine, its in zip(ours[2], theirs[2], strict=True):
            np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-5)


def test_one_group_a_layer_is_the_graph_as_it_was(needle_int8_dir: Path) -> None:
    model = PagedModel(needle_int8_dir)
    assert [layer.layer for layer in model.cache_layers] == list(range(8))
    assert {layer.heads for layer in model.cache_layers} == {(0, 1, 2, 3)}
