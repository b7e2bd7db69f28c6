"""A real model: a short chat, and a long document with the full KV cache and a quarter of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.evaluation.suites.longbench.prompts import LongBench
from ov_kvcrush.evaluation.suites.longbench.rows import read_rows

FRACTION = 4
QUESTIONS = (
    "What is the capital of France?",
    "Which river flows through it?",
    "Write one sentence about that river.",
)
ANSWER_TOKENS = 64
# Long enough that a quarter is little, short enough to be read in a minute on two cores.
LEAST_TOKENS, MOST_TOKENS = 1500, 4000


def main() -> None:
    """Chat, then ask one question of a document twice; print what came back and what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder made by: ov-kvcrush export")
    model = parser.parse_args().model
    console = Console()
    pipeline = LLMPipeline(model, "CPU")
    chat_shortly(pipeline, console)
    prompt, question, right, num_tokens = choose_document(pipeline)
    del pipeline
    console.print(f"\nA document of {num_tokens:,} tokens: {question}")
    console.print(f"[dim]right: {right}[/]\n")
    told = {}
    for name, budget in {"full cache": 0, f"1/{FRACTION} of it": num_tokens // FRACTION}.items():
        with console.status(f"reading with the {name} …"):
            told[name] = ask(model, prompt, budget)
    console.print(comparison(told))


def chat_shortly(pipeline: LLMPipeline, console: Console) -> None:
    """A conversation of three turns, streamed by the line."""
    chat = pipeline.chat()
    for question in QUESTIONS:
        results = chat.ask(question, max_new_tokens=ANSWER_TOKENS)
        metrics = results.metrics[0].to_dict()
        console.print(f"[bold]> {question}[/]\n{results.texts[0].strip()}", highlight=False)
        console.print(
            f"[dim]{metrics['tpot_ms']:.0f} ms a token · KV {metrics['kv_tokens']:,} tokens, "
            f"{metrics['kv_bytes'] / 1e6:.2f} MB[/]",
            highlight=False,
        )


def choose_document(pipeline: LLMPipeline) -> tuple[str, str, str, int]:
    """A prompt with a document and a question, the question, the right answer, and its tokens."""
    tokenizer = pipeline.get_tokenizer()
    for prompt, question, right in documents():
        size = tokenizer.encode(prompt).input_ids.shape[1]
        if LEAST_TOKENS <= size <= MOST_TOKENS:
            return prompt, question, right, size
    raise SystemExit(f"no document of {LEAST_TOKENS:,} to {MOST_TOKENS:,} tokens in the rows")


def documents() -> Iterator[tuple[str, str, str]]:
    """Rows of LongBench that ask something, in its own words."""
    longbench = LongBench()
    for row in read_rows():
        question, prompt = row.fields["input"].strip(), longbench.prompt(row.fields)
        if question:
            yield prompt.text, question, prompt.answers[0]


def ask(model: Path, question: str, max_cache_size: int) -> dict[str, Any]:
    """The answer with such a cache, and what it cost."""
    # A small slack, so that what is shown is the budget and not what it may grow by.
    config = KVCacheConfig(max_cache_size, decode_slack=32)
    chat = LLMPipeline(model, "CPU", kv_cache_config=config).chat()
    results = chat.ask(question, max_new_tokens=ANSWER_TOKENS)
    return {"answer": results.texts[0].strip(), **results.metrics[0].to_dict()}


def comparison(told: dict[str, dict[str, Any]]) -> Table:
    """Answers, and what each cache kept and cost."""
    table = Table("", *told)
    columns = told.values()
    full = next(iter(columns))["kv_bytes"]
    table.add_row("answer", *[one["answer"] for one in columns])
    table.add_section()
    table.add_row("tokens kept", *[f"{one['kv_tokens']:,}" for one in columns])
    table.add_row("KV cache", *[f"{one['kv_bytes'] / 1e6:.1f} MB" for one in columns])
    table.add_row("of the full cache", *[f"{one['kv_bytes'] / full:.0%}" for one in columns])
    table.add_row("time to first token", *[f"{one['ttft_ms']:,.0f} ms" for one in columns])
    table.add_row("time per token", *[f"{one['tpot_ms']:.1f} ms" for one in columns])
    return table


if __name__ == "__main__":
    main()
