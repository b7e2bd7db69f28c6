"""What a decode step takes beside its inferences and its sampling, by cache layers and sequences.

    python benchmarks/step_overhead.py                             # some minutes, the first time
    python benchmarks/step_overhead.py --layers 64 --sequences 1 16
    python benchmarks/step_overhead.py --folder path/to/a/model --sequences 1 16

The engine's own steps on models of many narrow layers, with a gate of random weights. Every
sequence has read a prompt and been cut to a budget that layers share unevenly, so that their page
tables grow in different steps. Medians and means of the steps that decode all of them and cut none,
by the processor time of the engine's thread: what else runs makes it wait, not work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest.mock import patch

import openvino as ov
from openvino_genai import GenerationConfig, Tokenizer
from rich.console import Console
from rich.table import Table

from harness.models import model_of_layers, tokens
from ov_kvcrush.benchmark.random_gate import random_gate
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.gate import GATE_FILE
from ov_kvcrush.machine import LoadMeter
from ov_kvcrush.model_folder import fingerprint
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.paged.running import RunningRequests
from ov_kvcrush.runtime.scheduling.scheduler import Scheduler

PROMPT, BUDGET, STEPS = 400, 256, 100


class Clocks:
    """Seconds since they were last cleared, by what was called."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` with a clock on it."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                passed = time.thread_time() - begun
                self.seconds[name] = self.seconds.get(name, 0.0) + passed

        return timed


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--folder", type=Path, help="an exported model instead")
    options = parser.parse_args()
    table = Table(title="ms a step that only decodes, beside its inference")
    parts = ["median", "mean", "scheduling", "giving and taking", "the rest"]
    for name in ("layers", "sequences", *parts, "sampling"):
        table.add_column(name, justify="right")
    load = LoadMeter()
    folders = [options.folder] if options.folder else map(model_of_layers, options.layers)
    for folder in folders:
        for count in options.sequences:
            layers, found = measure(folder, count)
            table.add_row(f"{layers}", f"{count}", *(f"{1e3 * value:.2f}" for value in found))
    Console(width=110).print(table)
    print(f"other processes took {load.others_percent():.0f} % of all processors meanwhile")


def measure(folder: Path, count: int) -> tuple[int, list[float]]:
    """Cache layers of the model, and seconds a step of ``count`` sequences, as in the table."""
    clocks = Clocks()
    with clocked(clocks):
        engine = engine_on(folder, count)
        config = GenerationConfig(max_new_tokens=STEPS + 2 * count, ignore_eos=True)
        for number in range(count):
            engine.add_request(tokens(PROMPT, number), config)
        while engine.scheduler.waiting or any(s.num_uncached > 1 for s in engine.scheduler.running):
            engine.step()
        steps = []
        for _ in range(STEPS):
            clocks.seconds.clear()
            begun = time.thread_time()
            engine.step()
            steps.append((time.thread_time() - begun, dict(clocks.seconds)))
        assert len(engine.scheduler.running) == count
    layers = len(engine.model.layers)
    own = [step - parts["infer"] - parts["sample"] for step, parts in steps]
    scheduling = median(parts["schedule"] for _, parts in steps)
    giving = median(parts["forward"] - parts["infer"] for _, parts in steps)
    sampling = median(parts["sample"] for _, parts in steps)
    rest = median(own) - scheduling - giving
    return layers, [median(own), fmean(own), scheduling, giving, rest, sampling]


@contextmanager
def clocked(clocks: Clocks) -> Iterator[None]:
    """Clocks on what a step is made of."""
    places: list[tuple[Any, str]] = [
        (ov.InferRequest, "infer"),
        (RunningRequests, "sample"),
        (Scheduler, "schedule"),
        (PagedModel, "forward"),
    ]
    patches = [patch.object(at, name, clocks.wrap(name, getattr(at, name))) for at, name in places]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def engine_on(folder: Path, count: int) -> PagedEngine:
    """An engine for ``count`` sequences, none of which is cut while it decodes."""
    if not (folder / GATE_FILE).exists():
        replace(random_gate(folder), fingerprint=fingerprint(folder)).save(folder)
    limits = EngineLimits(max_num_seqs=count)
    config = KVCacheConfig(
        max_cache_size=BUDGET,
        decode_slack=2 * STEPS + 2 * count,
        layer_budgets="pyramid",
        pool_size=count * 2 * PROMPT,
        prefix_caching=False,
        key_cache_precision="u8",
        value_cache_precision="u8",
    )
    return PagedEngine(folder, Tokenizer(folder), config=config, limits=limits)


if __name__ == "__main__":
    main()
