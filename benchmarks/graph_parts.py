"""What cutting a model into parts, each with a KV precision of its own, does to a decode step.

python benchmarks/graph_parts.py --model mha --parts 1 3 5

All parts store u8: what is measured is the cutting alone. The models take turns, each loaded alone:
of several in one process those in parts are slower still.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import psutil
from models import SHAPES, model_folder
from report import LoadMeter
from side_by_side import PROMPT, plugin_properties, tokens

from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.batch import Batch
from ov_kvcrush.runtime.cache_layout import PAGE_SIZE
from ov_kvcrush.runtime.paged_graph import read_geometry
from ov_kvcrush.runtime.paged_model import PagedModel

_TURNS = 2


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
            model = make(folder, parts, options.threads)
            for step in range(options.steps // _TURNS):
                begun = time.perf_counter()
                model.forward(batch(model, [7], PROMPT + step % PAGE_SIZE))
                times[parts].append(time.perf_counter() - begun)
            del model
    print(f"{options.model}: a decode step behind {PROMPT:,} tokens")
    first = median(times[options.parts[0]])
    for parts, seconds in times.items():
        ratio = median(seconds) / first
        print(f"{parts:>3} parts: {1e3 * median(seconds):>8.2f} ms   {ratio:.3f}")
    print(f"other processes took {load.others_percent():.0f} % of all processors meanwhile")


def make(folder: object, parts: int, threads: int) -> PagedModel:
    """The model in so many equal parts, with a prompt in its cache."""
    geometry = read_geometry(folder)  # type: ignore[arg-type]
    # Another setting that means the same makes another part.
    same = [
        LayerPrecision("u8", "u8"),
        LayerPrecision("u8", "u8", value_group_size=geometry[0].value_head_size),
    ]
    size = -(-len(geometry) // parts)
    precisions = [same[n // size % 2] for n in range(len(geometry))]
    properties = plugin_properties(threads)
    for name in ("KEY_CACHE_PRECISION", "VALUE_CACHE_PRECISION"):
        del properties[name]
    model = PagedModel(folder, precisions=precisions, properties=properties)  # type: ignore[arg-type]
    model.reserve([PROMPT // PAGE_SIZE + 1] * len(geometry))
    prompt = tokens(PROMPT, 0)
    for begin in range(0, PROMPT, 1024):
        model.forward(batch(model, prompt[begin : begin + 1024], begin))
    return model


def batch(model: PagedModel, ids: list[int], past: int) -> Batch:
    """One sequence on pages 0, 1, …; logits of its last token."""
    pages = np.arange(-(-(past + len(ids)) // PAGE_SIZE), dtype=np.int32)
    layers = len(model.layers)
    return Batch(
        input_ids=np.array(ids, np.int64),
        position_ids=np.arange(past, past + len(ids), dtype=np.int64),
        subsequence_begins=np.array([0, len(ids)], np.int32),
        past_lens=[np.array([past], np.int32)] * layers,
        block_indices=[pages] * layers,
        block_indices_begins=[np.array([0, len(pages)], np.int32)] * layers,
        sampled_rows=np.array([len(ids) - 1], np.int32),
        window_rows=np.zeros(0, np.int32),
    )


if __name__ == "__main__":
    main()
