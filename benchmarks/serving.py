"""Many requests at once, a small pool: how many a minute ov-kvcrush and openvino_genai complete.

    python benchmarks/serving.py                                     # 16 requests, several minutes
    python benchmarks/serving.py --requests 4 --tokens-in 1024 --tokens-out 64   # a first look
    python benchmarks/serving.py --model gqa --json
    python benchmarks/serving.py --side ours --set prefill_budget=0  # another setting of ours

Each side runs alone in a process of its own. What is compared: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from harness.models import SHAPES, model_folder
from harness.report import LoadMeter, machine
from harness.serving_sides import Outcome, Workload, serve_ours, serve_theirs
from harness.workload import OURS, PRECISION, THEIRS, plugin_properties
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_graph import read_geometry
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, page_bytes

TARGET = 2.5
SIDES = {"ours": serve_ours, "theirs": serve_theirs}


def main() -> None:
    """Parse the command line, measure, print."""
    options = parse_options()
    folder = model_folder(options.model) if options.model in SHAPES else Path(options.model)
    workload = Workload(
        requests=options.requests,
        tokens_in=options.tokens_in,
        tokens_out=options.tokens_out,
        max_num_batched_tokens=options.max_num_batched_tokens,
        max_num_seqs=options.max_num_seqs,
        properties=plugin_properties(options.threads, options.inference_precision),
        decode_precision=options.decode_precision,
    )
    pool_size = tokens_in_pool(folder, options.pool_mb)
    changes = dict(one.split("=", 1) for one in options.set)
    configs = {
        "ours": changed(replace(OURS, pool_size=pool_size), changes),
        "theirs": replace(THEIRS, pool_size=pool_size),
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in options.side or SIDES}
    load = LoadMeter()
    for turn in range(options.turns):
        # What slows the machine for a while slows either side first.
        for name in sorted(outcomes, reverse=bool(turn % 2)):
            outcomes[name].append(in_own_process(name, folder, configs[name], workload))
            report_progress(name, outcomes[name][-1])
    result = {
        "model": options.model,
        "requests": workload.requests,
        "tokens_in": workload.tokens_in,
        "tokens_out": workload.tokens_out,
        "pool_tokens": pool_size,
        "decode_precision": workload.decode_precision,
        "max_num_batched_tokens": workload.max_num_batched_tokens,
        "kv_cache_config": {name: configs[name].to_dict() for name in outcomes},
        "ratio": ratio(outcomes),
        "target": TARGET,
        "machine": machine(),
        "others_cpu_percent": load.others_percent(),
        "sides": {name: [one.to_dict() for one in turns] for name, turns in outcomes.items()},
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_report(result)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", default="mha", help=f"{', '.join(SHAPES)}, or a folder with an exported model"
    )
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens-in", type=int, default=4096)
    parser.add_argument("--tokens-out", type=int, default=512)
    parser.add_argument("--pool-mb", type=float, default=256, help="of 10^6 bytes")
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048, help="of both sides")
    parser.add_argument("--max-num-seqs", type=int, default=64, help="of both sides")
    parser.add_argument("--side", choices=SIDES, action="append", help="default: both")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="of our KVCacheConfig"
    )
    parser.add_argument("--turns", type=int, default=1, help="of each side (default 1)")
    parser.add_argument(
        "--threads", type=int, default=len(psutil.Process().cpu_affinity()), help="of both sides"
    )
    parser.add_argument("--inference-precision", choices=("f32", "bf16"), help="of both sides")
    parser.add_argument("--decode-precision", choices=("f32",), help="of ours")
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of tables")
    return parser.parse_args()


def tokens_in_pool(folder: Path, megabytes: float) -> int:
    """Tokens whose pages, in all layers, take no more than ``megabytes``."""
    precision = LayerPrecision(PRECISION, PRECISION)
    layers = read_geometry(folder)
    return int(1e6 * megabytes / page_bytes(layers, [precision] * len(layers))) * PAGE_SIZE


def changed(config: KVCacheConfig, changes: dict[str, str]) -> KVCacheConfig:
    """``config`` with ``changes``, whose values are JSON or plain words."""
    settings = config.to_dict()
    for name, text in changes.items():
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    return KVCacheConfig.from_dict(settings)


def in_own_process(name: str, folder: Path, config: KVCacheConfig, workload: Workload) -> Outcome:
    """What serving takes where nothing else is loaded."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(SIDES[name], folder, config, workload).result()


def report_progress(name: str, outcome: Outcome) -> None:
    """A line on stderr: a side takes minutes."""
    Console(stderr=True).print(
        f"{name}: {outcome.completed} requests in {outcome.seconds:,.0f} s", highlight=False
    )


def ratio(outcomes: dict[str, list[Outcome]]) -> dict[str, float] | None:
    """Requests per minute of ours / theirs, over all turns; by wall clock and processor time."""
    if outcomes.keys() != SIDES.keys():
        return None
    rates = {}
    for clock in ("seconds", "cpu_seconds"):
        ours, theirs = (
            sum(one.completed for one in outcomes[name])
            / sum(getattr(one, clock) for one in outcomes[name])
            for name in ("ours", "theirs")
        )
        rates[clock] = ours / theirs
    return rates


def print_report(result: dict[str, Any]) -> None:
    """Tables on stdout."""
    console = Console()
    title = (
        f"{result['model']}: {result['requests']} requests of {result['tokens_in']:,} tokens in, "
        f"{result['tokens_out']:,} out; a pool of {result['pool_tokens']:,} tokens"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("")
    turns = [(name, one) for name, all_turns in result["sides"].items() for one in all_turns]
    for name, _ in turns:
        table.add_column({"ours": "ov-kvcrush", "theirs": "openvino_genai"}[name], justify="right")
    for label, cell in CELLS.items():
        table.add_row(label, *(cell(one) for _, one in turns))
    console.print(table)
    for name, one in turns:
        for part, seconds in sorted(one["parts"].items(), key=lambda item: -item[1]):
            share = 100 * seconds / one["seconds"]
            console.print(f"{name}: {part:<28} {seconds:>7.1f} s {share:>5.1f} %", highlight=False)
    if result["ratio"]:
        wall, cpu = result["ratio"]["seconds"], result["ratio"]["cpu_seconds"]
        verdict = "met" if wall >= result["target"] else "missed"
        print(f"requests per minute, ours / theirs: {wall:.2f} (target {TARGET}: {verdict})")
        print(f"the same by processor time: {cpu:.2f}")
    others = result["others_cpu_percent"]
    print(f"other processes took {others:.0f} % of all processors meanwhile")


def _spread(values: dict[str, float]) -> str:
    return f"{values['median']:,.1f} / {values['p95']:,.1f}" if values else ""


def _count(value: int | None) -> str:
    return "not told" if value is None else f"{value:,}"


CELLS: dict[str, Callable[[dict[str, Any]], str]] = {
    "completed requests": lambda one: f"{one['completed']}",
    "requests per minute": lambda one: f"{one['requests_per_minute']:.2f}",
    "requests per minute of processor time": lambda one: f"{one['requests_per_cpu_minute']:.2f}",
    "pool (MB)": lambda one: f"{one['pool_bytes'] / 1e6:.1f}",
    "pool in use at most (MB)": lambda one: f"{one['peak_bytes'] / 1e6:.1f}",
    "sequences computed together, mean": lambda one: f"{one['mean_concurrency']:.2f}",
    "sequences computed together, most": lambda one: f"{one['max_concurrency']}",
    "steps": lambda one: f"{one['num_steps']:,}",
    "preemptions": lambda one: _count(one["num_preemptions"]),
    "tokens computed": lambda one: _count(one["num_computed_tokens"]),
    "time to first token, median / p95 (s)": lambda one: _spread(one["ttft_seconds"]),
    "time per token, median / p95 (ms)": lambda one: _spread(one["tpot_ms"]),
}


if __name__ == "__main__":
    main()
