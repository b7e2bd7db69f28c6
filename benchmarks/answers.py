"""How many answers a cut cache keeps right: full cache and a part of it, question by question.

Each conversation is about one document. The cache is cut once, when the first question has been
read; the later questions were unknown then. Every question is scored on its own, exactly: the
answers before it in the conversation are the right ones, not the model's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ov_kvcrush import KVCacheConfig, LLMPipeline

SAMPLES = Path(__file__).parents[1] / "samples" / "data" / "needle-sample.jsonl"
POLICIES: dict[str, dict[str, Any]] = {
    "default": {},
    "KVCrush, the paper's rank": {"representatives": "rank", "representative_share": 0.25},
    "SnapKV alone": {"representatives": "none"},
    "SnapKV alone, kernel 7": {"representatives": "none", "kernel_size": 7},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder made by: ov-kvcrush export")
    parser.add_argument("--data", type=Path, default=SAMPLES, help="conversations, JSON lines")
    parser.add_argument(
        "--tokens", type=int, nargs=2, default=(3000, 5000), help="documents' sizes"
    )
    parser.add_argument("--part", type=int, default=4, help="keep 1/PART of each document's tokens")
    parser.add_argument("--first-only", action="store_true", help="ask only the first question")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    low, high = arguments.tokens
    rows = [json.loads(line) for line in arguments.data.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if low < row["tokens"] < high and row["turns"][0][1] != "Noted."]
    scores = {"full cache": score(arguments, rows, None)}
    for name, settings in POLICIES.items():
        scores[f"1/{arguments.part}, {name}"] = score(arguments, rows, settings)
    if arguments.json:
        print(json.dumps(scores, indent=2))
    else:
        Console().print(table(scores, len(rows)))


def score(
    arguments: argparse.Namespace, rows: list[dict[str, Any]], settings: dict[str, Any] | None
) -> dict[str, int]:
    """Right answers to first and to later questions, and how many were asked."""
    counts = {"first": 0, "firsts": 0, "later": 0, "laters": 0}
    # Documents differ in size, and a budget belongs to a pipeline: one for each size of 64 tokens.
    by_budget: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        part = row["tokens"] // arguments.part
        by_budget.setdefault(0 if settings is None else part // 64 * 64, []).append(row)
    todo = [(budget, row) for budget in sorted(by_budget) for row in by_budget[budget]]
    pipeline, current = None, -1
    for budget, row in track(todo, "asking", console=Console(stderr=True), transient=True):
        if budget != current or pipeline is None:
            config = KVCacheConfig(max_cache_size=budget, **(settings or {}))
            pipeline, current = LLMPipeline(arguments.model, kv_cache_config=config), budget
        chat = pipeline.chat()
        for number, (question, right) in enumerate(row["turns"]):
            if number and arguments.first_only:
                break
            answer = chat.ask(question, max_new_tokens=48).texts[0].strip()
            kind = "later" if number else "first"
            counts[kind] += answer == right.strip()
            counts[f"{kind}s"] += 1
            chat.messages[-1]["content"] = right
        chat.close()
    return counts


def table(scores: dict[str, dict[str, int]], num_documents: int) -> Table:
    """Counts, and shares of what the full cache gets right."""
    shown = Table(
        "cache", "first questions", "of full", "later questions", "of full",
        title=f"Right answers, {num_documents} documents",
    )  # fmt: skip
    full = scores["full cache"]
    for name, counts in scores.items():
        cells = []
        for kind in ("first", "later"):
            share = f"{counts[kind] / full[kind]:.1%}" if full[kind] else "–"
            cells += [f"{counts[kind]}/{counts[kind + 's']}", share]
        shown.add_row(name, *cells)
    return shown


if __name__ == "__main__":
    main()
