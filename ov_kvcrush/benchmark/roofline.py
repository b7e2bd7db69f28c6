"""The least time that a decode step can take: bytes it must read over the memory's bandwidth.

The roofline of S. Williams, A. Waterman and D. Patterson (2009), on its memory side: decoding reads
every weight that is multiplied, and all keys and values of each sequence, and computes little.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from ov_kvcrush.runtime.model.weights import WeightBytes
from ov_kvcrush.runtime.plugin.ir_file import read_ir

_READ_BYTES = 2**29
_PART_OF_FREE_MEMORY = 1 / 8
_PASSES = 7


@dataclass(frozen=True)
class Roofline:
    """What bounds a decode step.

    Attributes:
        bandwidth: bytes a second that the benchmark's threads can read.
        weight_bytes: of all weights that a step multiplies with.
    """

    bandwidth: float
    weight_bytes: int

    def step_seconds(self, kv_bytes: float) -> float:
        """Least seconds of a step.

        Args:
            kv_bytes: keys and values of all sequences that are decoded together.
        """
        return (self.weight_bytes + kv_bytes) / self.bandwidth


def measure_bandwidth(num_threads: int) -> float:
    """Bytes a second that ``num_threads`` threads read together: the best of several passes.

    Each thread ORs over a part of its own of half a gigabyte (less where memory is short), far more
    than caches hold: one instruction a vector, so that reading is all that takes time.
    """
    size = int(min(_READ_BYTES, _PART_OF_FREE_MEMORY * psutil.virtual_memory().available))
    words = max(1, size // num_threads // 8)
    with ThreadPoolExecutor(num_threads) as threads:
        # Written by the thread that reads them, so that they lie near it; ones, not untouched zeros
        # that all are the same page.
        parts = list(threads.map(lambda _: np.ones(words, np.uint64), range(num_threads)))
        best = min(_pass_seconds(threads, parts) for _ in range(_PASSES))
    return num_threads * words * 8 / best


def _pass_seconds(threads: ThreadPoolExecutor, parts: list[NDArray[np.uint64]]) -> float:
    begun = time.perf_counter()
    list(threads.map(np.bitwise_or.reduce, parts))
    return time.perf_counter() - begun


def read_weight_bytes(folder: Path) -> int:
    """Bytes of the weights that a decode step of the model in ``folder`` multiplies with.

    As :class:`ov_kvcrush.runtime.model.weights.WeightBytes` counts them.

    Raises:
        ModelError: the model cannot be read.
    """
    return WeightBytes.of(read_ir(folder)).total
