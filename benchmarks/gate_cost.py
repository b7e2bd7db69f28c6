"""What a gate costs: reading a chunk and decoding a token, against the same model without one.

python benchmarks/gate_cost.py --model gqa
python benchmarks/gate_cost.py --folder MODEL_DIR

Where a compiled model comes to lie in memory makes more of a difference than the gate: each side is
compiled anew in every turn, in changing order.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import psutil

from harness.models import SHAPES, model_folder, tokens
from ov_kvcrush.benchmark.random_gate import random_gate
from ov_kvcrush.machine import LoadMeter
from ov_kvcrush.runtime.model.batch import Batch, build_batch
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.sequences.sequence import Chunk, sequence_on_pages

_CACHED, _CHUNK = 1024, 1024


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="mha")
    parser.add_argument("--folder", type=Path, help="an exported model instead")
    parser.add_argument("--turns", type=int, default=6, help="compilations of each (default 6)")
    parser.add_argument("--steps", type=int, default=100, help="in a turn (default 100)")
    parser.add_argument("--threads", type=int, default=len(psutil.Process().cpu_affinity()))
    options = parser.parse_args()

    folder = options.folder or model_folder(options.model)
    gate = random_gate(folder)
    properties = {"INFERENCE_NUM_THREADS": options.threads}
    seconds: dict[tuple[str, bool], list[float]] = {}
    load = LoadMeter()
    for turn in range(options.turns):
        order = (None, gate) if turn % 2 else (gate, None)
        sides = [
            (one is not None, PagedModel(folder, properties=properties, gate=one)) for one in order
        ]
        steps = {has_gate: batches(model) for has_gate, model in sides}
        for step in range(options.steps):
            for has_gate, model in sides[:: 1 if step % 2 else -1]:
                for name in ("read", "decode") if step % 10 == 0 else ("decode",):
                    begun = time.perf_counter()
                    model.forward(steps[has_gate][name])
                    seconds.setdefault((name, has_gate), []).append(time.perf_counter() - begun)
    print(f"{folder}: ms without a gate, with one, ratio of the medians")
    for name, about in (("read", f"{_CHUNK:,} tokens read"), ("decode", "a token decoded")):
        without, with_gate = (1e3 * median(seconds[name, has_gate]) for has_gate in (False, True))
        print(f"{about:<20}{without:>10.2f}{with_gate:>10.2f}{with_gate / without:>8.3f}")
    print(f"other processes took {load.others_percent():.0f} % of all processors meanwhile")


def batches(model: PagedModel) -> dict[str, Batch]:
    """A chunk to be read, and a token to be decoded behind one."""
    model.reserve([pages_for(_CACHED + 1)] * len(model.layers))
    sequence = sequence_on_pages([*tokens(_CACHED, 0), 7], model.layers)
    read = build_batch([Chunk.of(sequence, _CHUNK)])
    model.forward(read)
    sequence.append(_CHUNK)
    return {"read": read, "decode": build_batch([Chunk.of(sequence, 1)])}


if __name__ == "__main__":
    main()
