"""What the size of a prefill chunk (``max_num_batched_tokens``) does to the time to first token.

python benchmarks/prefill_chunks.py --model mha --chunks 512 1024 2048 4096
"""

from __future__ import annotations

import argparse
from statistics import median

import psutil

from harness.contestants import Ours
from harness.models import SHAPES, model_folder
from harness.report import LoadMeter
from harness.workload import FULL, PROMPT, plugin_properties, tokens, warm_up
from ov_kvcrush.runtime.interface import EngineLimits


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="mha")
    parser.add_argument("--chunks", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--repeat", type=int, default=3, help="turns of each size (default 3)")
    parser.add_argument("--threads", type=int, default=len(psutil.Process().cpu_affinity()))
    options = parser.parse_args()

    folder, properties = model_folder(options.model), plugin_properties(options.threads)
    times: dict[int, list[float]] = {chunk: [] for chunk in options.chunks}
    load = LoadMeter()
    engines = {
        chunk: Ours(folder, FULL, properties, EngineLimits(max_num_batched_tokens=chunk))
        for chunk in options.chunks
    }
    for engine in engines.values():
        warm_up(PROMPT, engine.generate)
    for turn in range(options.repeat):
        for chunk, engine in engines.items():
            times[chunk].append(engine.generate(tokens(PROMPT, turn), 1).ttft)
    print(f"{options.model}: {PROMPT:,} tokens in, time to first token by size of chunk")
    for chunk, seconds in times.items():
        every = ", ".join(f"{1e3 * one:,.0f}" for one in seconds)
        print(f"{chunk:>6,} tokens: {1e3 * median(seconds):>8,.0f} ms   ({every})")
    print(f"other processes took {load.others_percent():.0f} % of all processors meanwhile")


if __name__ == "__main__":
    main()
