"""What a grammar costs: to be built for a model's tokens, and a token beside the model's step.

    python benchmarks/grammar_masks.py path/to/a/model ...
    python benchmarks/grammar_masks.py path/to/a/model --sequences 1 8

Sampled answers of a few fields each; what the masks of a step take, over all of its sequences, is
counted inside the engine's own steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from openvino_genai import GenerationConfig
from rich.console import Console
from rich.table import Table

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.machine import LoadMeter
from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.runtime.grammar.grammar import Grammar
from ov_kvcrush.runtime.grammar.token_mask import TokenMask
from ov_kvcrush.runtime.paged.engine import PagedEngine

PROMPT, ANSWERS, LONGEST = "Describe a person as JSON, with a biography.", 6, 120
TEXT = {"type": "string", "maxLength": 60}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": TEXT,
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "role": {"enum": ["reader", "writer", "owner"]},
        "tags": {"type": "array", "items": TEXT, "minItems": 2, "maxItems": 4},
        "biography": {"type": "string", "maxLength": 200},
    },
    "required": ["name", "age", "role", "tags", "biography"],
    "additionalProperties": False,
}
COLUMNS = (
    "tokens", "sequences", "first grammar", "next one", "step without", "step with",
    "masks: median", "mean", "99th", "most",
)  # fmt: skip


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    table = Table(
        title="ms; steps and masks are medians of steps that decode unless said otherwise"
    )
    for name in COLUMNS:
        table.add_column(name, justify="right")
    load = LoadMeter()
    for folder in options.folders:
        for count in options.sequences:
            table.add_row(*measure(folder, count))
    Console(width=130).print(table)
    print(f"other processes took {load.others_percent():.0f} % of all processors meanwhile")


def measure(folder: Path, count: int) -> list[str]:
    """One row of the table: ``count`` sequences at a time on the model in ``folder``."""
    tokenizer = load_tokenizer(folder)
    engine = PagedEngine(folder, tokenizer, config=KVCacheConfig(pool_size=8192))
    config = GenerationConfig(max_new_tokens=LONGEST, do_sample=True, temperature=1.0)
    config.set_eos_token_id(tokenizer.get_eos_token_id())
    prompt = tokenizer.encode(PROMPT).input_ids.data[0].tolist()
    free, _ = steps(engine, prompt, config, count)
    building = []
    for schema in (SCHEMA, {**SCHEMA, "title": "another"}):
        config.structured_output_config = Grammar.json_schema(schema).to_config()
        begun = time.perf_counter()
        engine.build_grammar(config)
        building.append(1e3 * (time.perf_counter() - begun))
    bound, masks = steps(engine, prompt, config, count)
    told = [*building, median(free), median(bound), median(masks), np.mean(masks)]
    told += [np.quantile(masks, 0.99), max(masks)]
    size = len(tokenizer.get_vocab())
    return [f"{size:,}", f"{count}", *(f"{value:.2f}" for value in told)]


def steps(
    engine: PagedEngine, prompt: list[int], config: GenerationConfig, count: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each step that only decodes ``count`` sequences, and of its masks."""
    taken, masks = [], []
    with clocked() as clock:
        for number in range(ANSWERS):
            requests = []
            for seed in range(count):
                config.rng_seed = number * count + seed
                requests.append(engine.add_request(prompt, config))
            while not all(request.finished for request in requests):
                decodes = sum(s.num_uncached == 1 for s in engine.scheduler.running) == count
                clock[0] = 0.0
                begun = time.perf_counter()
                engine.step()
                if decodes:
                    taken.append(1e3 * (time.perf_counter() - begun))
                    masks.append(1e3 * clock[0])
    return taken, masks


@contextmanager
def clocked() -> Iterator[list[float]]:
    """Seconds in masks since it was last put to 0."""
    clock = [0.0]

    def timed(function: Any) -> Any:
        def call(*args: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args)
            finally:
                clock[0] += time.perf_counter() - begun

        return call

    with (
        patch.object(TokenMask, "apply", timed(TokenMask.apply)),
        patch.object(TokenMask, "take", timed(TokenMask.take)),
    ):
        yield clock


if __name__ == "__main__":
    main()
