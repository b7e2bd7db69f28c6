"""What reading a document twice costs: time and memory against reading it once, in one process.

python benchmarks/thorough.py --model gqa
python benchmarks/thorough.py --folder MODEL_DIR --tokens 6000 --max-cache-size 1500
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import psutil
from openvino_genai import GenerationConfig, Tokenizer

from harness.models import SHAPES, model_folder, tokens
from ov_kvcrush import KVCacheConfig
from ov_kvcrush.machine import LoadMeter
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session

PROMPT, BUDGET = 4096, 1024


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="mha")
    parser.add_argument("--folder", type=Path, help="an exported model instead")
    parser.add_argument("--tokens", type=int, default=PROMPT, help=f"document (default {PROMPT})")
    parser.add_argument("--max-cache-size", type=int, default=BUDGET, help=f"(default {BUDGET})")
    parser.add_argument("--repeat", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--threads", type=int, default=len(psutil.Process().cpu_affinity()))
    options = parser.parse_args()

    folder = options.folder or model_folder(options.model)
    config = KVCacheConfig(
        max_cache_size=options.max_cache_size,
        pool_size=options.tokens + options.max_cache_size,
        prefix_caching=False,
    )
    threads = {"INFERENCE_NUM_THREADS": options.threads}
    engine = PagedEngine(folder, Tokenizer(folder), config=config, properties=threads)
    crush(engine, tokens(options.tokens, 999), thorough=True)  # pays for the plugin's buffers
    load = LoadMeter()
    turns = [
        [crush(engine, tokens(options.tokens, turn), thorough) for thorough in (False, True)]
        for turn in range(options.repeat)
    ]
    print(f"{folder}: {options.tokens:,} tokens cut to {options.max_cache_size:,}")
    print(f"{'':<24}{'once':>12}{'twice':>12}{'ratio':>8}")
    for place, name in enumerate(("seconds", "seconds of processors", "MB at most")):
        once, twice = (median(turn[side][place] for turn in turns) for side in (0, 1))
        print(f"{name:<24}{once:>12,.2f}{twice:>12,.2f}{twice / once:>8.2f}")
    print(f"other processes took {load.others_percent():.0f} % of all processors meanwhile")


def crush(engine: PagedEngine, document: list[int], thorough: bool) -> tuple[float, float, float]:
    """Seconds, seconds of all processors together, and MB at most of crushing ``document``."""
    session = Session(pinned=True, is_prefix=True, thorough=thorough)
    begun, worked = time.perf_counter(), time.process_time()
    settings = GenerationConfig(max_new_tokens=1, ignore_eos=True)
    request = engine.add_request(document, settings, session)
    while not request.finished:
        engine.step()
    seconds, work = time.perf_counter() - begun, time.process_time() - worked
    engine.close_session(session)
    return seconds, work, request.generations[0].metrics.kv_bytes_peak / 1e6


if __name__ == "__main__":
    main()
