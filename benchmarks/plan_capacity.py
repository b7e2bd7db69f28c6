"""How many users a machine, or several, would serve: computed from what a benchmark measured.

ov-kvcrush bench MODEL_DIR --engine paged --prompt-tokens 1024 --prompt-tokens 4096 \\
    --max-cache-size 0 --max-cache-size 1024 --concurrency 1 --concurrency 4 --output bench.json
python benchmarks/plan_capacity.py bench.json --machine xeon=64:280:512

What is computed, and where it breaks: docs/planning.md. The tables are Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_kvcrush.benchmark.capacity import (
    Capacity,
    Costs,
    Habit,
    Machine,
    capacity_of,
    fleet_users,
)
from ov_kvcrush.benchmark.capacity_costs import costs_of, read_samples
from ov_kvcrush.benchmark.contestants import OURS
from ov_kvcrush.errors import ConfigError, OVKVCrushError
from ov_kvcrush.files import read_json

_CONTEXTS = (8192, 32768, 131072)
_GIB = 2**30
_HERE = "here"
# Eight channels of DDR5-5600 are 358 GB/s by their data sheet; four fifths of it can be read.
_XEON = "64 cores=64:286:512"
# A processor of many cores may hold as much in its caches.
_LARGE_CACHE = 300e6


@dataclass(frozen=True)
class Row:
    """A line of the last table: how much of a context is kept, and where.

    Attributes:
        context: tokens that each user has got to.
        is_cut: whether caches are kept to the budget.
    """

    context: int
    is_cut: bool


def main() -> None:
    """Parse the command line, compute, print."""
    options = _parser().parse_args()
    try:
        for line in report_lines(options):
            print(line)
    except OVKVCrushError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reports", type=Path, nargs="+", help="of one model on one machine")
    parser.add_argument("--engine", default=OURS, help=f"as the benchmark calls it ({OURS})")
    parser.add_argument("--budget", type=int, help="total of those that are cut (the smallest)")
    parser.add_argument(
        "--machine",
        action="append",
        metavar="NAME=CORES:GB/S:GB",
        help=f"to plan for, repeatable: cores, bandwidth that they share, memory ({_XEON!r})",
    )
    parser.add_argument(
        "--machines", type=int, nargs="+", default=[1, 4], help="how many of each (1 4)"
    )
    parser.add_argument("--context", type=int, nargs="+", default=_CONTEXTS, help="tokens")
    parser.add_argument("--new-tokens", type=int, default=200, help="read in a turn (200)")
    parser.add_argument("--answer-tokens", type=int, default=300, help="of a turn (300)")
    parser.add_argument(
        "--turn-seconds", type=float, default=60, help="from a user's turn to the next (60)"
    )
    parser.add_argument(
        "--token-ms", type=float, default=100, help="that may pass between two tokens (100)"
    )
    return parser


def report_lines(options: argparse.Namespace) -> Iterator[str]:
    """All that is said."""
    reports = [read_json(path) for path in options.reports]
    costs = costs_of(reports, options.engine, options.budget)
    machines = {_HERE: costs.machine}
    machines |= dict(map(_machine, options.machine or [_XEON]))
    yield from _costs_lines(costs)
    yield ""
    yield from _check_lines(costs, reports, options.engine)
    yield ""
    yield from _user_lines(costs, machines, options)
    yield ""
    yield from _break_lines(costs, machines, reports, options)


def _machine(text: str) -> tuple[str, Machine]:
    name, _, figures = text.rpartition("=")
    try:
        cores, bandwidth, memory = figures.split(":")
        machine = Machine(int(cores), float(bandwidth) * 1e9, float(memory) * _GIB)
    except ValueError:
        machine = Machine(0, 0, 0)
    if not name or min(machine.cores, machine.bandwidth, machine.memory_bytes) <= 0:
        raise ConfigError(f"--machine {text!r} is not NAME=CORES:GB/S:GB", f"Such as: {_XEON!r}")
    return name, machine


def _costs_lines(costs: Costs) -> Iterator[str]:
    machine, cut = costs.machine, costs.cut
    yield "| measured | |"
    yield "|---|---|"
    yield f"| cores, bandwidth | {machine.cores}, {machine.bandwidth / 1e9:.1f} GB/s |"
    yield f"| weights a step | {costs.weight_bytes / 1e6:,.0f} MB |"
    yield f"| process beside its KV cache | {costs.resident_bytes / 1e6:,.0f} MB |"
    yield f"| KV cache a token | {costs.kv_bytes_per_token / 1e3:.1f} kB |"
    reading = f"{1e3 * costs.read_seconds:.3f} ms"
    growth = f"{1e6 * costs.read_growth * 1000:.1f} µs more a thousand tokens before it"
    yield f"| reading a token | {reading}, {growth} |"
    step = f"{1e3 * costs.step_seconds:.2f} ms, {1e3 * costs.serial_seconds:.2f} of one thread"
    products = f"{1e3 * costs.product_seconds:.2f} ms"
    more = f"{1e3 * costs.sequence_serial_seconds:.2f} ms of one thread"
    yield f"| decode step | {step}, and {1e9 * costs.kv_seconds:.4f} ms a MB of KV cache |"
    yield f"| each further sequence | {products}, its cache, and {more} |"
    if cut is not None:
        kept = f"{cut.kept_bytes / 1e6:.1f} MB, {cut.peak_bytes / 1e6:.1f} while it is read"
        yield f"| kept to {cut.budget:,} tokens | {kept} |"
        yield f"| reading a token, kept so | {1e3 * cut.read_seconds:.3f} ms |"


def _check_lines(costs: Costs, reports: Sequence[Mapping[str, Any]], engine: str) -> Iterator[str]:
    """What the same arithmetic says of requests that came together, which it was not made from."""
    samples = [sample for report in reports for sample in read_samples(report, engine)]
    together = [sample for sample in samples if sample.num_requests > 1]
    if not together:
        yield "No requests came together (--concurrency 4): there is nothing to check this with."
        return
    yield "| check: requests at once | computed | measured | ratio |"
    yield "|---|---|---|---|"
    for sample in together:
        computed = costs.together_seconds(
            sample.num_requests, sample.prompt_tokens, sample.answer_tokens, sample.budget > 0
        )
        kept = f"{sample.budget:,} kept" if sample.budget else "nothing evicted"
        yield (
            f"| {sample.num_requests} × {sample.prompt_tokens:,} in, {sample.answer_tokens} out, "
            f"{kept} | {computed:.1f} s | {sample.seconds:.1f} s | "
            f"{computed / sample.seconds:.2f} |"
        )


def _most_together(reports: Sequence[Mapping[str, Any]], engine: str) -> int:
    return max(one.num_requests for report in reports for one in read_samples(report, engine))


def _user_lines(
    costs: Costs, machines: Mapping[str, Machine], options: argparse.Namespace
) -> Iterator[str]:
    columns = [
        (name, count) for name in machines for count in (options.machines if name != _HERE else [1])
    ]
    titles = [name if count == 1 else f"{count} × {name}" for name, count in columns]
    yield (
        f"Users who ask every {options.turn_seconds:g} s, {options.new_tokens} tokens in and "
        f"{options.answer_tokens} out, at most {options.token_ms:g} ms a token; (m) where memory "
        "bounds them:"
    )
    yield ""
    yield f"| context | kept | a user | {' | '.join(titles)} | a core |"
    yield f"|{'---|' * (len(columns) + 4)}"
    for row in _rows(costs, options.context):
        kept = f"{costs.cut.budget:,}" if row.is_cut and costs.cut else "all"
        cells = []
        for name, count in columns:
            found = _capacity(costs.on(machines[name]), row, options)
            users = fleet_users(found.users, count) if found.users else 0
            cells.append(f"{users:,}{' (m)' if found.is_bound_by_memory else ''}")
        here = _capacity(costs, row, options)
        size = f"{here.user_bytes / 1e6:,.0f} MB"
        a_core = f"{here.users / costs.machine.cores:.1f}"
        yield f"| {row.context:,} | {kept} | {size} | {' | '.join(cells)} | {a_core} |"


def _rows(costs: Costs, contexts: Sequence[int]) -> list[Row]:
    kinds = (False, True) if costs.cut is not None else (False,)
    return [Row(context, is_cut) for context in contexts for is_cut in kinds]


def _capacity(costs: Costs, row: Row, options: argparse.Namespace) -> Capacity:
    habit = Habit(
        context=row.context,
        new_tokens=options.new_tokens,
        answer_tokens=options.answer_tokens,
        turn_seconds=options.turn_seconds,
        token_seconds=options.token_ms / 1e3,
    )
    return capacity_of(costs, habit, row.is_cut)


def _break_lines(
    costs: Costs,
    machines: Mapping[str, Machine],
    reports: Sequence[Mapping[str, Any]],
    options: argparse.Namespace,
) -> Iterator[str]:
    """Where these figures ask more of the arithmetic than it was shown to give."""
    yield "Where this breaks:"
    yield ""
    for name, machine in machines.items():
        if name == _HERE:
            continue
        there = costs.on(machine)
        serial = 100 * costs.serial_seconds / there.step_seconds
        enough = costs.cores_worth_having(machine.bandwidth)
        yield (
            f"* {name}: {machine.cores / costs.machine.cores:.0f} times the cores that were "
            f"measured. A decode step of one sequence gets no faster beyond {enough:,.0f} of them "
            f"(memory); {serial:.0f} % of it is one thread's work."
        )
        most = max(
            _capacity(there, row, options).sequences for row in _rows(costs, options.context)
        )
        yield (
            f"* {name}: up to {most:,} sequences in a step, each of which takes "
            f"{1e3 * costs.sequence_serial_seconds:.2f} ms of one thread; at most "
            f"{_most_together(reports, options.engine)} came together where it was measured. A "
            "server has to be let run as many (--max-running)."
        )
    if costs.weight_bytes < _LARGE_CACHE:
        yield (
            f"* {costs.weight_bytes / 1e6:,.0f} MB of weights may stay in the caches of a large "
            "processor: a step can be faster than its memory."
        )
    longest = max(
        sample.prompt_tokens
        for report in reports
        for sample in read_samples(report, options.engine)
    )
    if max(options.context) > longest:
        yield (
            f"* Times at {max(options.context):,} tokens are drawn out from {longest:,} at most: "
            f"{max(options.context) / longest:.0f} times."
        )


if __name__ == "__main__":
    main()
