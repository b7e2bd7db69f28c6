"""The gate's measurement: a stand-in until the real one is merged."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

import numpy as np

from ov_kvcrush.gate import Gate
from ov_kvcrush.progress import Progress
from ov_kvcrush.runtime.model.batch import build_batch
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.sequences.sequence import Chunk, sequence_on_pages

INSTRUCTION = "Repeat:"


@dataclass(frozen=True)
class GateMeasurement:
    """A stand-in."""

    gate: Gate
    correlation: tuple[float, ...]


def measure_gate(
    model: PagedModel,
    passages: list[list[int]],
    held: list[list[int]],
    progress: Progress,
    *,
    instruction: list[int],
    seed: int = 0,
) -> GateMeasurement:
    """Stand in."""
    total = len(passages) + len(held)
    for n in range(total):
        time.sleep(float(os.environ.get("STUB_SECONDS", "0.01")) * len((*passages, *held)[n]) / 1e3)
        progress.advance((n + 1) / total)
    rng = np.random.default_rng(seed)
    model.reserve([8] * len(model.layers))
    tokens = passages[0][:64]
    chunk = Chunk.of(sequence_on_pages(tokens, model.layers), len(tokens))
    batch = replace(build_batch([chunk]), window_rows=np.arange(len(tokens), dtype=np.int32))
    states = model.forward(batch).states
    weights = tuple(
        rng.standard_normal((state.shape[1], layer.num_kv_heads)).astype(np.float32)
        for state, layer in zip(states, model.layers, strict=True)
    )
    biases = tuple(np.zeros(layer.num_kv_heads, np.float32) for layer in model.layers)
    return GateMeasurement(Gate(weights, biases, ""), (0.5,) * len(model.layers))
