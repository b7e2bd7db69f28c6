"""Rows whose logits are wanted are chosen before every step that treats each row alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray
from openvino import opset13 as ops

from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model import paged_graph
from ov_kvcrush.runtime.model.paged_graph import attention_nodes, read_paged_graph
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.model.sampled_rows import choose_rows_early
from tests.support.batches import batch
from tests.support.engines import F32, prompt_of

TOKENS = np.random.default_rng(0).normal(size=(6, 1, 8)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)

Step = Callable[[ov.Node], ov.Node]


def norm(node: ov.Node) -> ov.Node:
    square = ops.power(node, ops.constant(np.float32(2)))
    return ops.divide(node, ops.sqrt(ops.reduce_mean(square, ops.constant([-1]), True)))


def product(node: ov.Node) -> ov.Node:
    return ops.matmul(node, ops.constant(WEIGHTS), False, True)


def gated(node: ov.Node) -> ov.Node:
    one, other = ops.split(node, ops.constant(-1), 2).outputs()
    halves = ops.multiply(ops.swish(one), other)
    return ops.matmul(halves, ops.constant(WEIGHTS[:, :4]), False, True)


def centered(node: ov.Node) -> ov.Node:
    return ops.subtract(node, ops.reduce_mean(node, ops.constant([0]), True))


def reversed_rows(node: ov.Node) -> ov.Node:
    return ops.reshape(ops.reshape(node, ops.constant([8, -1]), False), [-1, 1, 8], False)


def model_of(*steps: Step, shows: bool = False) -> tuple[ov.Model, ov.Node]:
    """Steps with a residual around each, and the input of row numbers."""
    tokens = ops.parameter([-1, 1, 8], np.float32, "tokens")
    rows = ops.parameter([-1], np.int32, "rows")
    state, results = tokens, []
    for step in steps:
        added = step(state)
        if shows:
            results.append(ops.result(added))
        state = ops.add(state, added)
    # As in a model, something reads what is wanted.
    reader = ops.negative(state)
    chosen = choose_rows_early(reader.input_value(0), rows)
    reader.input(0).replace_source_output(chosen)
    return ov.Model([ops.result(reader), *results], [tokens, rows]), rows


def given(model: ov.Model, rows: list[int]) -> list[NDArray[np.float32]]:
    compiled = ov.Core().compile_model(model, "CPU", F32)
    return list(compiled([TOKENS, np.array(rows, np.int32)]).values())


def read_for_rows(rows: ov.Node) -> list[str]:
    """What rows are chosen from."""
    gathers = [port.get_node() for port in rows.output(0).get_target_inputs()]
    return [gather.input_value(0).get_node().get_type_name() for gather in gathers]


@pytest.mark.parametrize("rows", [[5], [0, 3, 4], [], [2, 2]])
def test_steps_on_single_rows_are_computed_for_those_that_are_wanted(rows: list[int]) -> None:
    model, numbers = model_of(norm, product, gated)
    (whole,) = given(model, [*range(6)])
    (chosen,) = given(model, rows)
    np.testing.assert_allclose(chosen, whole[rows], rtol=1e-5, atol=1e-6)
    assert read_for_rows(numbers) == ["Parameter"]


@pytest.mark.parametrize(
    ("mixing", "sources"), [(centered, ["Add"]), (reversed_rows, ["Add", "Reshape"])]
)
def test_what_looks_at_other_rows_sees_all_of_them(mixing: Step, sources: list[str]) -> None:
    model, numbers = model_of(norm, mixing, product)
    (whole,) = given(model, [*range(6)])
    (chosen,) = given(model, [1, 4])
    np.testing.assert_allclose(chosen, whole[[1, 4]], rtol=1e-5, atol=1e-6)
    assert sorted(read_for_rows(numbers)) == sources


def test_what_others_read_stays_whole() -> None:
    model, _ = model_of(norm, product, shows=True)
    _, *shown = given(model, [3])
    assert [len(one) for one in shown] == [6, 6]


def test_the_last_layer_ends_for_sampled_rows_alone(needle_int8_dir: Path) -> None:
    model = read_paged_graph(needle_int8_dir).model
    (rows,) = (p for p in model.get_parameters() if "sampled_rows" in p.output(0).get_names())
    chosen = [port.get_node() for port in rows.output(0).get_target_inputs()]
    # What its attention gives, and the residual stream around it.
    assert len(chosen) == 2
    behind, waiting = set(), [attention_nodes(model)[-1]]
    while waiting:
        node = waiting.pop()
        if node.get_type_name() == "MatMul":
            behind.add(node.get_friendly_name())
        elif node.get_name() not in {one.get_name() for one in chosen}:
            waiting += [port.get_node() for o in node.outputs() for port in o.get_target_inputs()]
    assert behind == set()


@pytest.mark.parametrize("hint", [F32, {}])
def test_logits_are_the_same_as_of_rows_chosen_at_the_end(
    needle_int8_dir: Path, monkeypatch: pytest.MonkeyPatch, hint: dict[str, str]
) -> None:
    def at_the_end(wanted: ov.Output, rows: ov.Node) -> ov.Output:
        return ops.gather(wanted, rows, ops.constant(np.int32(0))).output(0)

    tokens = prompt_of(150)
    logits = []
    for choose in (choose_rows_early, at_the_end):
        monkeypatch.setattr(paged_graph, "choose_rows_early", choose)
        model = PagedModel(needle_int8_dir, precisions=LayerPrecision("u8", "u8"), properties=hint)
        model.reserve([5] * len(model.layers))
        logits.append(model.forward(batch(model, tokens, 0, [149])).logits.copy())
    early, late = logits
    np.testing.assert_allclose(early, late, rtol=0, atol=1e-2 * float(np.abs(late).max()))
    assert early.argmax() == late.argmax()
