"""A chat of many turns within a budget: does the time to the first token grow, does memory?

python benchmarks/long_chat.py build/models/needle-int8 --turns 300
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path
from statistics import median

import psutil

from ov_kvcrush import KVCacheConfig, LLMPipeline

SYSTEM = "You answer questions about rooms and codes in one short sentence. " * 8
_AROUND = 5


def main() -> None:
    """Parse the command line, talk, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--budget", type=int, default=512)
    options = parser.parse_args()

    config = KVCacheConfig(max_cache_size=options.budget)
    pipe = LLMPipeline(options.model, kv_cache_config=config)
    with_the_same_start = pipe.chat(SYSTEM)
    with_the_same_start.ask("Which code has room 0?", max_new_tokens=8)
    chat, process = pipe.chat(SYSTEM), psutil.Process()
    ttft, wall, resident, held = [], [], [], []
    for turn in range(options.turns):
        begun = time.perf_counter()
        question = f"Room {turn} has the code {turn * 37 % 997}. Which code has room {turn}?"
        result = chat.ask(question, max_new_tokens=12, do_sample=False)
        metrics = result.metrics[0]
        before_engine = metrics.arrived - begun
        ttft.append(metrics.ttft)
        wall.append(before_engine + metrics.ttft)
        if metrics.restarted:
            raise RuntimeError(f"turn {turn}: {metrics.restarted}")
        gc.collect()
        resident.append(process.memory_info().rss)
        held.append(pipe.get_metrics()["kv_cache"]["used_bytes"])
    early, late = slice(10 - _AROUND, 10 + _AROUND), slice(-2 * _AROUND, None)
    print(f"{options.turns} turns, {metrics.num_prompt_tokens:,} tokens of history at the end")
    for name, times in (("TTFT", ttft), ("TTFT with template and tokenizer", wall)):
        first, last = 1e3 * median(times[early]), 1e3 * median(times[late])
        print(
            f"{name}: {first:.1f} ms around turn 10, {last:.1f} ms at the end, {last / first:.2f}"
        )
    print(f"KV bytes in use: {held[10] / 1e6:.2f} MB, {held[-1] / 1e6:.2f} MB")
    print(f"resident memory: {resident[10] / 1e6:.0f} MB, {resident[-1] / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
