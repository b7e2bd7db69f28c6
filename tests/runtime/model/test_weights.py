"""The weights that a step multiplies with."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ov_kvcrush.runtime.model.weights import WeightBytes

ROWS, WIDTH = 20, 8


def compressed(rows: int) -> ov.Node:
    """A table of int8 weights with a scale a row."""
    weights = ops.constant(np.ones((rows, WIDTH), np.int8))
    scales = ops.constant(np.ones((rows, 1), np.float32))
    return ops.multiply(ops.convert(weights, "f32"), scales)


def test_weights_that_are_multiplied_count_with_their_scales() -> None:
    states = ops.parameter([-1, WIDTH], np.float32)
    product = ops.matmul(states, compressed(ROWS), False, True)
    model = ov.Model([product], [states])
    assert WeightBytes.of(model) == WeightBytes(ROWS * WIDTH + ROWS * 4, ROWS * WIDTH)


def test_a_table_that_is_only_looked_up_in_does_not_count() -> None:
    ids = ops.parameter([-1], np.int64)
    found = ops.gather(compressed(ROWS), ids, ops.constant(0))
    model = ov.Model([ops.matmul(found, compressed(5), False, True)], [ids])
    assert WeightBytes.of(model) == WeightBytes(5 * WIDTH + 5 * 4, 5 * WIDTH)


def test_a_table_that_makes_logits_too_counts_once() -> None:
    ids = ops.parameter([-1], np.int64)
    table = compressed(ROWS)
    states = ops.matmul(ops.gather(table, ids, ops.constant(0)), table, False, True)
    found = WeightBytes.of(ov.Model([states], [ids]))
    assert found.total == ROWS * WIDTH + ROWS * 4


def test_products_of_two_computed_tensors_read_no_weights() -> None:
    left, right = ops.parameter([2, 2], np.float32), ops.parameter([2, 2], np.float32)
    scaled = ops.multiply(left, ops.constant(np.float32(2)))
    model = ov.Model([ops.matmul(scaled, right, False, False)], [left, right])
    assert WeightBytes.of(model) == WeightBytes(0, 0)
