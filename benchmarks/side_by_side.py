"""ov-kvcrush and openvino_genai side by side in one process, taking turns.

    python benchmarks/side_by_side.py                    # both models, all cases
    python benchmarks/side_by_side.py --model tiny       # does it run? (a minute)
    python benchmarks/side_by_side.py --case evict --json

What each case and number means: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from harness.contestants import EvictingGenai, Genai, Ours, Run
from harness.models import SHAPES, model_folder
from harness.report import LoadMeter, Row, machine, print_table
from harness.workload import FULL, OURS, PROMPT, THEIRS, plugin_properties, tokens, warm_up
from ov_kvcrush.runtime.sequences.session import Session

ANSWER, QUESTION = 32, 32
LONG_PROMPT, LONG_HISTORY = 16384, 8000

Turn = tuple[Run, Run]


@dataclass(frozen=True)
class Case:
    """What both sides do in a turn, and what is made of it.

    Attributes:
        title: for people.
        evicts: whether the cache has a budget.
        prompt: most tokens of a prompt.
        ours, theirs: a side and the turn's number to a run.
        rows: what the turns say.
    """

    title: str
    evicts: bool
    ours: Callable[[Ours, int], Run]
    theirs: Callable[[Genai | EvictingGenai, int], Run]
    rows: Callable[[list[Turn]], list[Row]]
    prompt: int = PROMPT


def second_turn(ours: Ours, turn: int, history: int = PROMPT) -> Run:
    """Go on with a chat of so many tokens."""
    session = Session()
    first = tokens(history - ANSWER, turn)
    answer = ours.generate(first, ANSWER, session).tokens
    run = ours.generate(first + answer + tokens(QUESTION, turn), 4, session)
    ours.engine.close_session(session)
    return run


def plain_rows(turns: list[Turn]) -> list[Row]:
    """Both times count."""
    return [ttft(turns, 1.05), tpot(turns, 1.05)]


def evict_rows(turns: list[Turn]) -> list[Row]:
    """The time per token counts, and what the cuts take of the whole."""
    kv_bytes = [(1e-6 * a.kv_bytes, 1e-6 * b.kv_bytes) for a, b in turns]
    shares = [(100 * a.compression_share, None) for a, _ in turns]
    return [
        tpot(turns, 1.0),
        ttft(turns),
        Row("KV cache at the end", "MB", kv_bytes),
        Row("selecting and moving, of the whole", "%", shares, 0.5),
    ]


def long_rows(turns: list[Turn]) -> list[Row]:
    """The time to read counts, and what the cache holds meanwhile."""
    peaks = [(1e-6 * a.kv_bytes_peak, 1e-6 * b.kv_bytes_peak) for a, b in turns]
    return [ttft(turns, 0.35), Row("KV cache at most", "MB", peaks)]


def ttft(turns: list[Turn], target: float | None = None) -> Row:
    """Time to first token."""
    times = [(1e3 * a.ttft, 1e3 * b.ttft) for a, b in turns]
    return Row("time to first token", "ms", times, target)


def tpot(turns: list[Turn], target: float | None = None) -> Row:
    """Time per token after the first."""
    times = [(1e3 * a.tpot, 1e3 * b.tpot) for a, b in turns]
    return Row("time per token", "ms", times, target)


CASES = {
    "plain": Case(
        "4,096 tokens in, 64 out, nothing evicted",
        False,
        lambda side, turn: side.generate(tokens(PROMPT, turn), 64),
        lambda side, turn: side.generate(tokens(PROMPT, turn), 64),
        plain_rows,
    ),
    "evict": Case(
        "4,096 tokens in, 256 out, 1,024 tokens of cache",
        True,
        lambda side, turn: side.generate(tokens(PROMPT, turn), 256),
        lambda side, turn: side.generate(tokens(PROMPT, turn), 256),
        evict_rows,
    ),
    "chat": Case(
        "second turn at 4,096 tokens of history, 1,024 tokens of cache",
        True,
        second_turn,
        # Whatever the first answer was: nothing of it is kept, the whole history is read again.
        lambda side, turn: side.generate(tokens(PROMPT + QUESTION, turn), 4),
        lambda turns: [ttft(turns, 0.1)],
    ),
    "long-chat": Case(
        "second turn at 8,000 tokens of history, 1,024 tokens of cache",
        True,
        lambda side, turn: second_turn(side, turn, LONG_HISTORY),
        lambda side, turn: side.generate(tokens(LONG_HISTORY + QUESTION, turn), 4),
        lambda turns: [ttft(turns, 0.05)],
        LONG_HISTORY,
    ),
    "long": Case(
        "16,384 tokens in, 4 out, 1,024 tokens of cache",
        True,
        lambda side, turn: side.generate(tokens(LONG_PROMPT, turn), 4),
        lambda side, turn: side.generate(tokens(LONG_PROMPT, turn), 4),
        long_rows,
        LONG_PROMPT,
    ),
}
DEFAULT_CASES = ("plain", "evict", "chat")


def run_model(
    folder: Path, cases: list[str], properties: dict[str, Any], repeat: int
) -> dict[str, list[Row]]:
    """Rows by case."""
    turns: dict[str, list[Turn]] = {name: [] for name in cases}
    for evicts, prompt in sorted({(CASES[name].evicts, CASES[name].prompt) for name in cases}):
        chosen = [n for n in cases if (CASES[n].evicts, CASES[n].prompt) == (evicts, prompt)]
        # Of two equal models in one process the one compiled later decodes a few percent faster
        # (measured; it is where their memory lies). So each side is the later one half the time.
        for ours_first in (True, False):
            ours, theirs = build(folder, evicts, prompt, properties, ours_first)
            warm_up(prompt, ours.generate, theirs.generate)
            for name in chosen:
                for _ in range(repeat):
                    turns[name].append(take_turn(CASES[name], ours, theirs, len(turns[name])))
            del ours, theirs
    return {name: CASES[name].rows(turns[name]) for name in cases}


def build(
    folder: Path, evicts: bool, prompt: int, properties: dict[str, Any], ours_first: bool
) -> tuple[Ours, Genai | EvictingGenai]:
    """Compile both sides, in the order asked for."""
    config = replace(OURS if evicts else FULL, pool_size=prompt + 512)
    ours = Ours(folder, config, properties) if ours_first else None
    theirs = (
        EvictingGenai(folder, replace(THEIRS, pool_size=prompt + 512), properties)
        if evicts
        else Genai(folder, properties)
    )
    return ours or Ours(folder, config, properties), theirs


def take_turn(case: Case, ours: Ours, theirs: Genai | EvictingGenai, turn: int) -> Turn:
    """Run one side, then the other; which is the first alternates."""
    if turn % 2:
        their_run = case.theirs(theirs, turn)
        return case.ours(ours, turn), their_run
    our_run = case.ours(ours, turn)
    return our_run, case.theirs(theirs, turn)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description="ov-kvcrush and openvino_genai side by side, taking turns in one process."
    )
    parser.add_argument(
        "--model",
        default="both",
        help=f"{', '.join(SHAPES)}, both (mha and gqa), or a folder with an exported model",
    )
    parser.add_argument(
        "--case", choices=CASES, action="append", help=f"default: {', '.join(DEFAULT_CASES)}"
    )
    parser.add_argument(
        "--repeat", type=int, default=2, help="turns in each order of compiling (default 2)"
    )
    parser.add_argument(
        "--threads", type=int, default=len(psutil.Process().cpu_affinity()), help="of both sides"
    )
    parser.add_argument(
        "--inference-precision",
        choices=("f32", "bf16"),
        help="of both sides (default OpenVINO's: bf16 where the processor has it)",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of tables")
    options = parser.parse_args()

    names = ["mha", "gqa"] if options.model == "both" else [options.model]
    folders = {name: model_folder(name) if name in SHAPES else Path(name) for name in names}
    properties = plugin_properties(options.threads, options.inference_precision)
    load = LoadMeter()
    results: dict[str, dict[str, list[Row]]] = {}
    for name, folder in folders.items():
        cases = options.case or list(DEFAULT_CASES)
        results[name] = run_model(folder, cases, properties, options.repeat)
        if not options.json:
            for case, rows in results[name].items():
                print_table(f"{name}, {case}: {CASES[case].title}", rows)
    others = load.others_percent()
    if options.json:
        report = {
            "machine": machine(),
            "others_cpu_percent": others,
            "properties": properties,
            "results": {
                name: {case: [row.to_dict() for row in rows] for case, rows in cases.items()}
                for name, cases in results.items()
            },
        }
        print(json.dumps(report, indent=2))
    else:
        print(f"{machine()['cpu']}, {options.threads} threads, {2 * options.repeat} turns a side")
        print(f"other processes took {others:.0f} % of all processors meanwhile")


if __name__ == "__main__":
    main()
