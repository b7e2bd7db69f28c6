"""What cutting a model into parts, each with a KV precision of its own, does to a decode step.

python benchmarks/graph_parts.py --model mha --parts 1 3 5

All parts store u8: what is measured is the cutting alone. The models take turns, each loaded alone:
of several in one process those in parts are slower still.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import psutil

from harness.models import SHAPES, model_folder, tokens
from ov_kvcrush.machine import LoadMeter
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.batch import Batch, build_batch
from ov_kvcrush.runtime.model.paged_graph import read_geometry
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.sequences.sequence import Chunk, sequence_on_pages

_TURNS = 2
_PROMPT = 4096


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="mha")
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--steps", type=int, default=200, help="of each (default 200)")
    parser.add_argument("--threads", type=int, default=len(psutil.Process().cpu_affinity()))
    options = parser.parse_args()

    folder = model_folder(options.model)
    times: dict[int, list[float]] = {parts: [] for parts in options.parts}
    load = LoadMeter()
    for _ in range(_TURNS):
        for parts in options.parts:
            model, step = make(folder, parts, options.threads)
            for _ in range(options.steps // _TURNS):
                begun = time.perf_counter()
                model.forward(step)
                times[parts].append(time.perf_counter() - begun)
            del model
    print(f"{options.model}: a decode step behind {_PROMPT:,} tokens")
    first = median(times[options.parts[0]])
    for parts, seconds in times.items():
        ratio = median(seconds) / first
        print(f"{parts:>3} parts: {1e3 * median(seconds):>8.2f} ms   {ratio:.3f}")
    print(f"other processes took {load.others_percent():.0f} % of all processors meanwhile")


def make(folder: Path, parts: int, threads: int) -> tuple[PagedModel, Batch]:
    """The model in so many equal parts, with a prompt in its cache, and the token after that."""
    geometry = read_geometry(folder)
    # Another setting that means the same makes another part.
    same = [
        LayerPrecision("u8", "u8"),
        LayerPrecision("u8", "u8", value_group_size=geometry[0].value_head_size),
    ]
    size = -(-len(geometry) // parts)
    precisions = [same[n // size % 2] for n in range(len(geometry))]
    properties = {"INFERENCE_NUM_THREADS": threads}
    model = PagedModel(folder, precisions=precisions, properties=properties)
    model.reserve([pages_for(_PROMPT + 1)] * len(geometry))
    sequence = sequence_on_pages([*tokens(_PROMPT, 0), 7], geometry)
    while sequence.num_uncached > 1:
        count = min(1024, sequence.num_uncached - 1)
        model.forward(build_batch([Chunk.of(sequence, count)]))
        sequence.append(count)
    return model, build_batch([Chunk.of(sequence, 1)])


if __name__ == "__main__":
    main()
