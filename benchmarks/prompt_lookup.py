"""What prompt lookup gives on text that is copied, edited and made up, beside openvino_genai's.

    python benchmarks/prompt_lookup.py qwen               # a folder that export has made
    python benchmarks/prompt_lookup.py qwen --drafts 5 --tokens 200 --turns 3
    python benchmarks/prompt_lookup.py qwen --alone --concurrency 4 --max-cache-size 1024

Sides take turns, each turn in the other order; medians. A token of ours without drafts is 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import openvino as ov
from openvino_genai import (
    ContinuousBatchingPipeline,
    GenerationConfig,
    GenerationStatus,
    SchedulerConfig,
    Tokenizer,
)
from rich.console import Console
from rich.table import Table

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.paged.engine import PagedEngine

CODE = (Path(__file__).parents[1] / "runtime/sequences/tail.py").read_text(encoding="utf-8")
TASKS = {
    "copy": f"Repeat this code exactly:\n```python\n{CODE[:3000]}\n```",
    "edit": f"Rename the class Tail to Newest and print all of it:\n```python\n{CODE[:3000]}\n```",
    "story": "Write a long story about a lighthouse keeper who finds a whale on the beach.",
}
_SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "rng_seed": 1}


@dataclass(frozen=True)
class Answer:
    """What one side said, and milliseconds between tokens of a sequence behind its first one."""

    tokens: list[int]
    ms: float
    num_steps: int


Side = Callable[[list[int], GenerationConfig, int], Answer]
"""Asked a prompt, settings, and how many times at once."""


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--drafts", type=int, default=10, help="tokens of a draft")
    parser.add_argument("--tokens", type=int, default=200, help="of an answer")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--precision", help="INFERENCE_PRECISION_HINT of all sides")
    parser.add_argument(
        "--concurrency", type=int, default=1, help="the prompt so many times at once"
    )
    parser.add_argument("--max-cache-size", type=int, help="tokens kept of each sequence, of ours")
    parser.add_argument("--alone", action="store_true", help="without openvino_genai")
    options = parser.parse_args()
    properties = {"INFERENCE_PRECISION_HINT": options.precision} if options.precision else {}
    tokenizer = Tokenizer(options.model)
    budget = options.max_cache_size
    sides = {
        "ours": our_side(options.model, tokenizer, properties, 0, budget),
        "ours, drafts": our_side(options.model, tokenizer, properties, options.drafts, budget),
    }
    if not options.alone:
        sides["genai"] = genai_side(options.model, tokenizer, properties, 0)
        sides["genai, drafts"] = genai_side(options.model, tokenizer, properties, options.drafts)
    table = Table(title=f"{options.model.name}: ms a token (of ours without drafts), tokens a step")
    table.add_column("task")
    for name in sides:
        table.add_column(name, justify="right")
    table.add_column("same text", justify="right")
    asked: list[tuple[str, dict[str, Any]]] = [(task, {}) for task in TASKS]
    for task, settings in [*asked, ("story", _SAMPLED)]:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": TASKS[task]}], add_generation_prompt=True
        )
        ids = tokenizer.encode(prompt, add_special_tokens=False).input_ids.data[0].tolist()
        config = GenerationConfig(max_new_tokens=options.tokens, ignore_eos=True, **settings)
        found = take_turns(sides, ids, config, options.turns, options.concurrency)
        usual = median(one.ms for one in found["ours"])
        cells = []
        for answers in found.values():
            ratios = [one.ms / usual for one in answers]
            a_step = (len(answers[0].tokens) - 1) / max(1, answers[0].num_steps)
            spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
            cells.append(
                f"{median(one.ms for one in answers):.1f} "
                f"({median(ratios):.2f}, {spread}) {a_step:.1f}"
            )
        same = found["ours"][0].tokens == found["ours, drafts"][0].tokens
        name = f"{task}, sampled" if settings else task
        table.add_row(name, *cells, "yes" if same else "no")
    Console(width=160).print(table)


def take_turns(
    sides: dict[str, Side],
    prompt: list[int],
    config: GenerationConfig,
    turns: int,
    concurrency: int = 1,
) -> dict[str, list[Answer]]:
    """The answers of each side, whose first one does not count."""
    found: dict[str, list[Answer]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        names = list(sides) if turn % 2 else list(sides)[::-1]
        for name in names:
            answer = sides[name](prompt, config, concurrency)
            if turn:
                found[name].append(answer)
    return found


def our_side(
    folder: Path,
    tokenizer: Tokenizer,
    properties: dict[str, str],
    drafts: int,
    max_cache_size: int | None = None,
) -> Side:
    """Our engine, with so many drafts or none, and a budget of tokens or all of them."""
    limits = EngineLimits(prompt_lookup=drafts)
    cache = KVCacheConfig(max_cache_size=max_cache_size) if max_cache_size else None
    engine = PagedEngine(folder, tokenizer, config=cache, properties=properties, limits=limits)

    def answer(prompt: list[int], config: GenerationConfig, concurrency: int) -> Answer:
        requests = [engine.add_request(prompt, config) for _ in range(concurrency)]
        generations = [request.generations[0] for request in requests]
        steps = 0
        while engine.has_unfinished():
            steps += requests[0] in engine.step()
        ms = 1e3 * mean(generation.metrics.tpot for generation in generations)
        return Answer(generations[0].tokens, ms, steps - 1)

    return answer


def genai_side(folder: Path, tokenizer: Tokenizer, properties: dict[str, str], drafts: int) -> Side:
    """openvino_genai's pipeline, the same."""
    scheduler = SchedulerConfig()
    scheduler.cache_size = 1
    lookup: dict[str, Any] = {"prompt_lookup": True} if drafts else {}
    pipeline = ContinuousBatchingPipeline(
        folder, tokenizer, scheduler, "CPU", **properties, **lookup
    )

    def answer(prompt: list[int], config: GenerationConfig, concurrency: int) -> Answer:
        if drafts:
            settings: dict[str, Any] = {
                name: getattr(config, name)
                for name in ("max_new_tokens", "ignore_eos", "do_sample", "temperature", "rng_seed")
            }
            config = GenerationConfig(**settings, num_assistant_tokens=drafts, max_ngram_size=3)
        ids = ov.Tensor(np.array([prompt], np.int64))
        handles = [pipeline.add_request(n, ids, config) for n in range(concurrency)]
        tokens: list[list[int]] = [[] for _ in handles]
        times: list[list[float]] = [[] for _ in handles]
        while any(handle.get_status() == GenerationStatus.RUNNING for handle in handles):
            pipeline.step()
            for number, handle in enumerate(handles):
                while handle.can_read():
                    for output in handle.read().values():
                        tokens[number] += output.generated_ids
                    times[number].append(time.perf_counter())
        ms = 1e3 * mean(
            (when[-1] - when[0]) / max(1, len(said) - 1)
            for said, when in zip(tokens, times, strict=True)
        )
        return Answer(tokens[0], ms, len(times[0]) - 1)

    return answer


if __name__ == "__main__":
    main()
