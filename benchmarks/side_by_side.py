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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from contestants import EvictingGenai, Genai, Ours, Run
from models import SHAPES, TOKENIZER_VOCAB, model_folder
from report import LoadMeter, Row, machine, print_table

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.runtime.cache_layout import PAGE_SIZE
from ov_kvcrush.runtime.request import Session

PROMPT, BUDGET, ANSWER, QUESTION = 4096, 1024, 32, 32
PRECISION = "u8"
# openvino_genai's total, and what its eviction knows of ours.
THEIRS = KVCacheConfig(
    max_cache_size=BUDGET,
    granularity="page",
    representatives="rank",
    key_cache_precision=PRECISION,
    value_cache_precision=PRECISION,
    pool_size=PROMPT + 512,
)
# Its cache grows by a page past the total before it is cut, ours by the slack; so ours is cut to
# less: neither ever holds more than the other may.
DEFAULT = KVCacheConfig()
OURS = replace(
    THEIRS,
    max_cache_size=BUDGET + PAGE_SIZE - DEFAULT.decode_slack,
    granularity=DEFAULT.granularity,
    representatives=DEFAULT.representatives,
)
FULL = replace(OURS, max_cache_size=0)

CASES = {
    "plain": "4,096 tokens in, 64 out, nothing evicted",
    "evict": "4,096 tokens in, 256 out, 1,024 tokens of cache",
    "chat": "second turn at 4,096 tokens of history, 1,024 tokens of cache",
}

Generate = Callable[[int], Run]
Turn = tuple[Run, Run]


def plain(folder: Path, properties: dict[str, Any], repeat: int) -> list[Row]:
    """A long prompt, 64 new tokens, nothing evicted."""
    ours, theirs = Ours(folder, FULL, properties), Genai(folder, properties)
    warm_up(ours.generate, theirs.generate)
    turns = take_turns(
        lambda turn: ours.generate(tokens(PROMPT, turn), 64),
        lambda turn: theirs.generate(tokens(PROMPT, turn), 64),
        repeat,
    )
    return [_ttft(turns, 1.05), _tpot(turns, 1.05)]


def evict(ours: Ours, theirs: EvictingGenai, repeat: int) -> list[Row]:
    """The same, 256 new tokens, and a budget."""
    turns = take_turns(
        lambda turn: ours.generate(tokens(PROMPT, turn), 256),
        lambda turn: theirs.generate(tokens(PROMPT, turn), 256),
        repeat,
    )
    kv_bytes = [(1e-6 * a.kv_bytes, 1e-6 * b.kv_bytes) for a, b in turns]
    shares = [(100 * a.compression_share, None) for a, _ in turns]
    return [
        _tpot(turns, 1.0),
        _ttft(turns),
        Row("KV cache at the end", "MB", kv_bytes),
        Row("selecting and moving, of the whole", "%", shares, 0.5),
    ]


def chat(ours: Ours, theirs: EvictingGenai, repeat: int) -> list[Row]:
    """The second turn of a chat with a history as long as that prompt, and a budget."""

    def second_turn(turn: int) -> Run:
        session = Session()
        first = tokens(PROMPT - ANSWER, turn)
        answer = ours.generate(first, ANSWER, session).tokens
        run = ours.generate(first + answer + tokens(QUESTION, turn), 4, session)
        ours.engine.close_session(session)
        return run

    turns = take_turns(
        second_turn,
        # Whatever the first answer was: nothing of it is kept, the whole history is read again.
        lambda turn: theirs.generate(tokens(PROMPT + QUESTION, turn), 4),
        repeat,
    )
    return [_ttft(turns, 0.1)]


def take_turns(ours: Generate, theirs: Generate, repeat: int) -> list[Turn]:
    """Run both sides ``repeat`` times, one after the other, each in turn the first."""
    turns = []
    for turn in range(repeat):
        if turn % 2:
            their_run = theirs(turn)
            turns.append((ours(turn), their_run))
        else:
            our_run = ours(turn)
            turns.append((our_run, theirs(turn)))
    return turns


def warm_up(*sides: Callable[[list[int], int], Run]) -> None:
    """Let every side run once, past the budget, so that no turn pays for a first time."""
    for generate in sides:
        generate(tokens(BUDGET + 256, 999), 4)


def tokens(count: int, seed: int) -> list[int]:
    """Token ids, the same for the same arguments; other seeds share no beginning."""
    ids: list[int] = np.random.default_rng(seed).integers(10, TOKENIZER_VOCAB, count).tolist()
    return ids


def plugin_properties(threads: int) -> dict[str, Any]:
    """What both sides compile with."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "KEY_CACHE_PRECISION": PRECISION,
        "VALUE_CACHE_PRECISION": PRECISION,
    }


def _ttft(turns: list[Turn], target: float | None = None) -> Row:
    return Row(
        "time to first token", "ms", [(1e3 * a.ttft, 1e3 * b.ttft) for a, b in turns], target
    )


def _tpot(turns: list[Turn], target: float | None = None) -> Row:
    return Row("time per token", "ms", [(1e3 * a.tpot, 1e3 * b.tpot) for a, b in turns], target)


def run_model(
    folder: Path, cases: list[str], properties: dict[str, Any], repeat: int
) -> dict[str, list[Row]]:
    """Rows by case; a pair of engines lives as long as its cases run."""
    rows = {}
    if "plain" in cases:
        rows["plain"] = plain(folder, properties, repeat)
    if "evict" in cases or "chat" in cases:
        ours = Ours(folder, OURS, properties)
        theirs = EvictingGenai(folder, THEIRS, properties, ours.engine.model.page_bytes)
        warm_up(ours.generate, theirs.generate)
        for name, case in (("evict", evict), ("chat", chat)):
            if name in cases:
                rows[name] = case(ours, theirs, repeat)
    return rows


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
    parser.add_argument("--case", choices=CASES, action="append", help="default: all three")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument(
        "--threads", type=int, default=len(psutil.Process().cpu_affinity()), help="of both sides"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of tables")
    options = parser.parse_args()

    names = ["mha", "gqa"] if options.model == "both" else [options.model]
    folders = {name: model_folder(name) if name in SHAPES else Path(name) for name in names}
    properties = plugin_properties(options.threads)
    load = LoadMeter()
    results: dict[str, dict[str, list[Row]]] = {}
    for name, folder in folders.items():
        cases = options.case or list(CASES)
        results[name] = run_model(folder, cases, properties, options.repeat)
        if not options.json:
            for case, rows in results[name].items():
                print_table(f"{name}, {case}: {CASES[case]}", rows)
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
        print(f"{machine()['cpu']}, {options.threads} threads, {options.repeat} turns a side")
        print(f"other processes took {others:.0f} % of all processors meanwhile")


if __name__ == "__main__":
    main()
