"""What a decode step has to read."""

from __future__ import annotations

from pathlib import Path

from ov_kvcrush.benchmark.roofline import (
    Roofline,
    measure_bandwidth,
    read_weight_bytes,
)
from ov_kvcrush.model_folder import WEIGHTS_FILE

ROWS, WIDTH = 20, 8


def test_a_model_multiplies_with_most_of_its_file(needle_int8_dir: Path) -> None:
    stored = (needle_int8_dir / WEIGHTS_FILE).stat().st_size
    assert 0.95 * stored < read_weight_bytes(needle_int8_dir) <= stored


def test_a_step_takes_as_long_as_its_bytes() -> None:
    assert Roofline(bandwidth=1e9, weight_bytes=10**8).step_seconds(10**8) == 0.2
    assert measure_bandwidth(num_threads=1) > 1e8
