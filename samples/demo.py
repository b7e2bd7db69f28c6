"""One long document, several questions: the full KV cache and a quarter of it, side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ov_kvcrush import KVCacheConfig, LLMPipeline

SAMPLES = Path(__file__).parent / "data" / "needle-sample.jsonl"
FRACTION = 4


def main() -> None:
    """Ask every question twice and print what came back and what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder made by: ov-kvcrush export")
    parser.add_argument("--task", default="needle_multikey", help="which document to ask about")
    arguments = parser.parse_args()
    console = Console()
    turns, num_tokens = read_document(arguments.task)
    budget = num_tokens // FRACTION
    console.print(
        f"A document of {num_tokens:,} tokens. Each question continues the conversation on the "
        "cache that the one before it left.\n"
    )
    configs = {"full cache": 0, f"1/{FRACTION} of it": budget}
    answers: dict[str, list[dict[str, Any]]] = {}
    for name, max_cache_size in configs.items():
        with console.status(f"asking with the {name} …"):
            answers[name] = ask_all(arguments.model, turns, max_cache_size)
    console.print(answer_table(turns, answers))
    console.print(cost_table(answers))


def read_document(task: str) -> tuple[list[tuple[str, str]], int]:
    """Questions (the first one with the document) and answers; the document's size in tokens."""
    rows = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["task"] == task:
            return [(question, answer) for question, answer in row["turns"]], row["tokens"]
    raise SystemExit(f"no task {task!r}; there are: {', '.join(row['task'] for row in rows)}")


def ask_all(model: Path, turns: list[tuple[str, str]], max_cache_size: int) -> list[dict[str, Any]]:
    """One conversation; its answers with their costs."""
    # A small slack, so that what is shown is the budget and not what it may grow by.
    config = KVCacheConfig(max_cache_size, decode_slack=32)
    pipeline = LLMPipeline(model, "CPU", kv_cache_config=config)
    chat = pipeline.chat()
    told = []
    for question, _ in turns:
        results = chat.ask(question, max_new_tokens=48)
        told.append({"answer": results.texts[0].strip(), **results.metrics[0].to_dict()})
    return told


def answer_table(turns: list[tuple[str, str]], answers: dict[str, list[dict[str, Any]]]) -> Table:
    """Questions, right answers, and what each cache answered."""
    table = Table("question", "right answer", *answers, title="Answers")
    for number, (question, right) in enumerate(turns):
        told = [column[number]["answer"] for column in answers.values()]
        marked = [f"[green]{a}[/]" if a == right.strip() else f"[red]{a}[/]" for a in told]
        table.add_row(question.strip().splitlines()[-1], right.strip(), *marked)
    return table


def cost_table(answers: dict[str, list[dict[str, Any]]]) -> Table:
    """KV bytes and times of each cache."""
    table = Table("after the last question", *answers, title="Costs")
    full = next(iter(answers.values()))[-1]["kv_bytes"]
    last = [column[-1] for column in answers.values()]
    table.add_row("KV cache", *[f"{m['kv_bytes'] / 1e6:.2f} MB" for m in last])
    table.add_row("of the full cache", *[f"{m['kv_bytes'] / full:.0%}" for m in last])
    table.add_row("tokens kept", *[f"{m['kv_tokens']:,}" for m in last])
    table.add_row("time per token", *[f"{m['tpot_ms']:.1f} ms" for m in last])
    table.add_row("time to first token", *[f"{m['ttft_ms']:.0f} ms" for m in last])
    table.add_row(
        "  of the first question", *[f"{c[0]['ttft_ms']:.0f} ms" for c in answers.values()]
    )
    return table


if __name__ == "__main__":
    main()
