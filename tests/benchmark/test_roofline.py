"""What a decode step has to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ov_kvcrush.benchmark.roofline import (
    Roofline,
    measure_bandwidth,
    multiplied_bytes,
    read_weight_bytes,
)
from ov_kvcrush.model_folder import WEIGHTS_FILE

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
    assert multiplied_bytes(model) == ROWS * WIDTH + ROWS * 4


def test_a_table_that_is_only_looked_up_in_does_not_count() -> None:
    ids = ops.parameter([-1], np.int64)
    found = ops.gather(compressed(ROWS), ids, ops.constant(0))
    model = ov.Model([ops.matmul(found, compressed(5), False, True)], [ids])
    assert multiplied_bytes(model) == 5 * WIDTH + 5 * 4


def test_a_table_that_makes_logits_too_counts_once() -> None:
    ids = ops.parameter([-1], np.int64)
    table = compressed(ROWS)
    states = ops.matmul(ops.gather(table, ids, ops.constant(0)), table, False, True)
    assert multiplied_bytes(ov.Model([states], [ids])) == ROWS * WIDTH + ROWS * 4


def test_products_of_two_computed_tensors_read_no_weights() -> None:
    left, right = ops.parameter([2, 2], np.float32), ops.parameter([2, 2], np.float32)
    scaled = ops.multiply(left, ops.constant(np.float32(2)))
    assert multiplied_bytes(ov.Model([ops.matmul(scaled, right, False, False)], [left, right])) == 0


def test_a_model_multiplies_with_most_of_its_file(needle_int8_dir: Path) -> None:
    stored = (needle_int8_dir / WEIGHTS_FILE).stat().st_size
    assert 0.95 * stored < read_weight_bytes(needle_int8_dir) <= stored


def test_a_step_takes_as_long_as_its_bytes() -> None:
    assert Roofline(bandwidth=1e9, weight_bytes=10**8).step_seconds(10**8) == 0.2
    assert measure_bandwidth(num_threads=1) > 1e8
