"""Do moved keys drift? What each kept key has become since it was first stored, cut after cut.

Moving a quantized key to another page may round it again. A long answer is generated behind a
text, and every key that is still held is compared with what the plugin had stored before the first
cut it lived through, in units of what rounding it once costs.

    python benchmarks/key_drift.py build/models/needle-int8 --tokens 4000 --budget 512
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from openvino_genai import GenerationConfig, Tokenizer

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.pages import key_codec
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.sequences.sequence import Sequence

Floats = NDArray[np.float32]
LEVELS = {"u8": 255, "u4": 15}


class Watch:
    """First and present keys of everything one sequence holds, ``{position: (key, rounding)}``."""

    def __init__(self, engine: PagedEngine, sequence: Sequence) -> None:
        self._engine, self._sequence = engine, sequence
        shape = [layer.positions.shape[0] for layer in sequence.layers]
        self._first: list[list[dict[int, tuple[Floats, Floats, int]]]] = [
            [{} for _ in range(heads)] for heads in shape
        ]

    def look(self) -> None:
        """Note the keys that are new since the last look."""
        num_cuts = len(self._sequence.cuts)
        for number, layer in enumerate(self._sequence.layers):
            keys, rounding = self._held(number)
            for head, first in enumerate(self._first[number]):
                for t, position in enumerate(layer.positions[head].tolist()):
                    # The plugin itself rounds a page anew until it is full.
                    if position not in first and t < layer.length // PAGE_SIZE * PAGE_SIZE:
                        first[position] = keys[head, t], rounding[head, t], num_cuts

    def drift(self) -> dict[int, float]:
        """By cuts lived through: root mean square of change, in roundings."""
        moved: dict[int, list[float]] = {}
        num_cuts = len(self._sequence.cuts)
        for number, layer in enumerate(self._sequence.layers):
            keys, _ = self._held(number)
            for head, first in enumerate(self._first[number]):
                for t, position in enumerate(layer.positions[head].tolist()):
                    if position not in first:
                        continue
                    key, rounding, since = first[position]
                    change = np.mean(((keys[head, t] - key) / rounding) ** 2)
                    moved.setdefault(num_cuts - since, []).append(float(change))
        return {cuts: float(np.sqrt(np.mean(found))) for cuts, found in sorted(moved.items())}

    def _held(self, number: int) -> tuple[Floats, Floats]:
        """Keys ``[H, S, D]`` in the order of the text, and what rounding each once costs."""
        layer, memory = self._sequence.layers[number], self._engine.model.memories[number]
        layout = memory.layout
        size, kind = layout.key_head_size, key_codec.KEY_KINDS[layout.key_type]
        shape = (layout.num_kv_heads, len(layer.pages) * PAGE_SIZE, size)
        keys, rounding = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for n, page in enumerate(layer.pages):
            rows = slice(n * PAGE_SIZE, (n + 1) * PAGE_SIZE)
            for head in range(layout.num_kv_heads):
                stored = memory.keys[page, head]
                key_codec.read_keys(stored, kind, PAGE_SIZE, size, keys[head, rows])
                # A step is the scale; rounding is off by a step over the root of twelve.
                rounding[head, rows] = stored[: 4 * size].view(np.float32) / np.sqrt(12)
        slots = layer.slots[:, :, None]
        return np.take_along_axis(keys, slots, 1), np.take_along_axis(rounding, slots, 1)


def measure(folder: Path, precision: str, num_tokens: int, budget: int) -> dict[int, float]:
    """Drift of keys in ``precision`` while ``num_tokens`` are generated."""
    config = KVCacheConfig(
        max_cache_size=budget, key_cache_precision=precision, value_cache_precision="u8"
    )
    tokenizer = Tokenizer(folder)
    engine = PagedEngine(folder, tokenizer, config=config)
    prompt = tokenizer.encode("Once upon a time there was a key.").input_ids.data[0].tolist()
    sampling = GenerationConfig(max_new_tokens=num_tokens, ignore_eos=True, do_sample=True)
    request = engine.add_request(prompt, sampling)
    (generation,) = request.generations
    sequence = generation.sequence
    if sequence is None:
        raise RuntimeError("a request of one answer has a sequence from the start")
    watch = Watch(engine, sequence)
    while len(generation.tokens) < num_tokens - 1:
        engine.step()
        if sequence.num_cached % 16 == 0 or len(sequence.cuts) == 0:
            watch.look()
    watch.look()
    drift = watch.drift()
    engine.cancel(request)
    return drift


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {
        precision: measure(arguments.model, precision, arguments.tokens, arguments.budget)
        for precision in LEVELS
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(found))
    print("cuts lived through, change since first stored in units of rounding once (u8, u4)")
    for cuts in found["u8"]:
        print(f"{cuts:5d} {found['u8'][cuts]:8.2f} {found['u4'].get(cuts, float('nan')):8.2f}")


if __name__ == "__main__":
    main()
