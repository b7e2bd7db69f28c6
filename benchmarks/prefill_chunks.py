"""What the size of a prefill chunk (``max_num_batched_tokens``) does to the time to first token.

python benchmarks/prefill_chunks.py --model mha --chunks 512 1024 2048 4096
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

import psutil

from harness.models import SHAPES, model_folder
from ov_kvcrush.benchmark.contestants import OURS
from ov_kvcrush.benchmark.our_side import OurSide
from ov_kvcrush.benchmark.side_setup import SideSetup
from ov_kvcrush.benchmark.workload import Workload
from ov_kvcrush.machine import LoadMeter

WORKLOAD = Workload(prompt_tokens=4096, answer_tokens=1)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="mha")
    parser.add_argument("--chunks", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--repeat", type=int, default=3, help="turns of each size (default 3)")
    parser.add_argument("--threads", type=int, default=len(psutil.Process().cpu_affinity()))
    options = parser.parse_args()

    folder = model_folder(options.model)
    times: dict[int, list[float]] = {chunk: [] for chunk in options.chunks}
    load = LoadMeter()
    engines = {chunk: make_engine(folder, chunk, options.threads) for chunk in options.chunks}
    for engine in engines.values():
        engine.measure(WORKLOAD, turn=0)  # the first prompt also pays for the plugin's buffers
    for turn in range(options.repeat):
        for chunk, engine in engines.items():
            times[chunk] += engine.measure(WORKLOAD, turn + 1).ttft
    length = WORKLOAD.prompt_tokens
    print(f"{options.model}: {length:,} tokens in, time to first token by size of chunk")
    for chunk, seconds in times.items():
        every = ", ".join(f"{1e3 * one:,.0f}" for one in seconds)
        print(f"{chunk:>6,} tokens: {1e3 * median(seconds):>8,.0f} ms   ({every})")
    print(f"other processes took {load.others_percent():.0f} % of all processors meanwhile")


def make_engine(folder: Path, chunk: int, threads: int) -> OurSide:
    """Our engine with chunks of this size; nothing is evicted."""
    return OurSide(
        SideSetup(
            engine=OURS,
            model_dir=folder,
            device="CPU",
            max_cache_size=0,
            precision=("u8", "u8"),
            pool_size=WORKLOAD.most_tokens + 512,
            num_threads=threads,
            max_num_batched_tokens=chunk,
            max_num_seqs=1,
        )
    )


if __name__ == "__main__":
    main()
