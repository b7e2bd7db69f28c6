"""Parts of a model compiled one by one: the same logits as the whole, each with its own cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from ov_kvcrush.errors import UnsupportedError
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.graph_parts import split_graph
from ov_kvcrush.runtime.model.paged_graph import attention_nodes, read_paged_graph
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.plugin.core import core
from tests.support.batches import batch
from tests.support.engines import prompt_of

U8, U4 = LayerPrecision("u8", "u8"), LayerPrecision("u4", "u4")
# What the plugin does by default, said aloud: another setting, so another part, and nothing else.
SPELLED_OUT = LayerPrecision("u8", "u8", value_group_size=64)
TOKENS = prompt_of(70)


def run(
    folder: Path, precisions: list[LayerPrecision], computed_in: str = "f32"
) -> tuple[PagedModel, list[np.ndarray]]:
    """Logits and queries of a prompt in two chunks and one more token."""
    properties = {"INFERENCE_PRECISION_HINT": computed_in}
    model = PagedModel(folder, precisions=precisions, properties=properties)
    model.reserve([4] * len(model.layers))
    found = []
    for past, end in ((0, 40), (40, 69), (69, 70)):
        rows = list(range(end - past))
        told = model.forward(batch(model, TOKENS[past:end], past, rows))
        found += [told.logits.copy(), *(q.copy() for q in told.queries)]
    return model, found


@pytest.mark.parametrize("computed_in", ["f32", "bf16"])
def test_three_equal_parts_give_the_same_bits_as_the_whole(
    needle_int8_dir: Path, computed_in: str
) -> None:
    if computed_in == "bf16" and "BF16" not in core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        pytest.skip("this CPU does not compute in bf16")
    whole, wanted = run(needle_int8_dir, [U8] * 8, computed_in)
    three = [U8] * 2 + [SPELLED_OUT] * 3 + [U8] * 3
    parts, found = run(needle_int8_dir, three, computed_in)
    assert len(parts._compiled._parts) == 3
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for mine, its in zip(parts.memories, whole.memories, strict=True):
        np.testing.assert_array_equal(mine.keys[:3], its.keys[:3])
        np.testing.assert_array_equal(mine.values[:3], its.values[:3])


def test_every_layer_stores_what_it_was_told(needle_int8_dir: Path) -> None:
    mixed = [U8, U4, U4, LayerPrecision("u8", "u4", value_group_size=32), U8, U8, U4, U8]
    model, found = run(needle_int8_dir, mixed)
    stored = [(p.key, p.value) for p in model.precisions]
    assert stored == [(p.key, p.value) for p in mixed]
    assert [memory.layout.key_type for memory in model.memories] == [p.key for p in mixed]
    # Keys of 64 elements: u4 has half the bytes of u8; groups of 32 have two scales and zeros.
    assert [layout.value_row_bytes for layout in model.layouts] == [72, 40, 40, 48, 72, 72, 40, 72]
    assert model.page_bytes == sum(
        4 * (8 * 64 + 32 * layout.key_row_bytes + 32 * layout.value_row_bytes)
        for layout in model.layouts
    )
    _, eight = run(needle_int8_dir, [U8] * 8)
    _, four = run(needle_int8_dir, [U4] * 8)
    error = [np.abs(logits[-1] - eight[-9]).mean() for logits in (found[-9], four[-9])]
    assert 0 < error[0] < error[1]


def test_weights_are_in_one_part_each(needle_int8_dir: Path) -> None:
    def constants(model: ov.Model) -> dict[str, int]:
        nodes = (n for n in model.get_ops() if n.get_type_name() == "Constant")
        # What is small (shapes, the rotations of RoPE) may be in several.
        return {n.get_name(): n.get_byte_size() for n in nodes if n.get_byte_size() > 1000}

    whole = constants(read_paged_graph(needle_int8_dir).model)
    parts = split_graph(read_paged_graph(needle_int8_dir), [2, 5])
    first, middle, last = (constants(part.model) for part in parts)
    assert not middle.keys() & (first.keys() | last.keys())
    # The table of embeddings is also the last matrix: one constant for both, as in the whole.
    shared = {name: size for name, size in first.items() if name in last}
    assert max(shared.values()) == max(whole.values())
    assert sum(shared.values()) < 1.02 * max(whole.values())
    sizes = sum(sum(part.values()) for part in (first, middle, last))
    assert sizes == sum(whole.values()) + sum(shared.values())
    assert [part.layers for part in parts] == [range(2), range(2, 5), range(5, 8)]


def test_layers_joined_by_more_than_one_tensor_are_not_cut(needle_int8_dir: Path) -> None:
    graph = read_paged_graph(needle_int8_dir)
    first, second = attention_nodes(graph.model)[:2]
    mixed = ops.add(second.input_value(0), first.output(0))
    second.input(0).replace_source_output(mixed.output(0))
    with pytest.raises(UnsupportedError, match="layers 0 and 1 cannot have different KV prec"):
        split_graph(graph, [1])
