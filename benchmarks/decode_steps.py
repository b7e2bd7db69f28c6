"""How long a step takes that only decodes, by sequences computed together, in bf16 and in f32.

    python benchmarks/decode_steps.py                          # a minute
    python benchmarks/decode_steps.py --model gqa --tokens 2000 --sequences 1 4 16

One model is compiled at a time, as `decode_precision` compiles it; the medians of its steps.
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from harness.models import SHAPES, model_folder
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.batch import Batch, build_batch
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence, sequence_on_pages

STEPS = 15
COLUMNS = ("same", "f32")


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mha", help=f"{', '.join(SHAPES)}, or a folder")
    parser.add_argument("--tokens", type=int, default=1000, help="cached of each sequence")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    options = parser.parse_args()
    folder = model_folder(options.model) if options.model in SHAPES else Path(options.model)
    found = [measure(folder, name, options.tokens, options.sequences) for name in COLUMNS]
    table = Table(title=f"ms a step, {options.tokens:,} tokens cached of each sequence")
    table.add_column("sequences", justify="right")
    for name, _ in found:
        table.add_column(name, justify="right")
    table.add_column("ratio", justify="right")
    for count in options.sequences:
        before, after = (times[count] for _, times in found)
        table.add_row(f"{count}", f"{before:.1f}", f"{after:.1f}", f"{after / before:.2f}")
    Console().print(table)


def measure(
    folder: Path, decode_precision: str, num_cached: int, counts: list[int]
) -> tuple[str, dict[int, float]]:
    """What the model decodes in, and milliseconds a step by number of sequences."""
    u8 = LayerPrecision("u8", "u8")
    model = PagedModel(folder, precisions=u8, decode_precision=decode_precision)
    model.reserve([max(counts) * pages_for(num_cached + 1)] * len(model.layers))
    chunks = [Chunk.of(sequence, 1) for sequence in read(model, num_cached, max(counts))]
    times = {count: step_ms(model, build_batch(chunks[:count])) for count in counts}
    name = model.decode_precision
    del model
    gc.collect()
    return name, times


def read(model: PagedModel, num_cached: int, count: int) -> list[Sequence]:
    """``count`` sequences with so many tokens read and one to come.

    They are really read: memory nobody has written to is faster to read.
    """
    sequences = []
    for number in range(count):
        tokens = np.random.default_rng(number).integers(3, 5000, num_cached + 1).tolist()
        first = number * pages_for(num_cached + 1)
        sequence = sequence_on_pages(tokens, model.layers, first)
        model.forward(build_batch([Chunk.of(sequence, num_cached)]))
        sequence.append(num_cached)
        sequences.append(sequence)
    return sequences


def step_ms(model: PagedModel, batch: Batch) -> float:
    """Median of some inferences of ``batch``, after two that do not count."""
    times = []
    for _ in range(STEPS + 2):
        begun = time.perf_counter()
        model.forward(batch)
        times.append(1e3 * (time.perf_counter() - begun))
    return median(times[2:])


if __name__ == "__main__":
    main()
