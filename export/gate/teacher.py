"""What a text's tokens turn out to be worth when the text is repeated: what the gate has to predict.

KVzip (arXiv 2505.23416) scores a token by the highest attention it gets while the model repeats
the text; KVzap (arXiv 2601.07891) counts with it how much the token's value then adds to the
residual stream (KVzip+).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.eviction.measuring import attention_peaks
from ov_kvcrush.runtime.model.batch import Batch, build_batch
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.key_codec import KEY_KINDS
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.pages.value_codec import read_values
from ov_kvcrush.runtime.sequences.sequence import Chunk, sequence_on_pages
from ov_kvcrush.runtime.sequences.sequence import Sequence as TokenSequence

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Rows whose queries are in memory at a time.
_ROWS_AT_ONCE = 512
_NONE = np.empty(0, np.int32)
# Of a peak before there is one.
_LEAST = np.float32(-1e30)


@dataclass(frozen=True)
class Lesson:
    """What the teacher found in a text; empty arrays for layers without a budget.

    Attributes:
        states: by layer ``[rows, hidden]``, what the K projection was given in the first reading.
        scores: by layer ``[H, tokens]``, natural logarithm of every token's score.
    """

    states: list[Floats]
    scores: list[Floats]


class Teacher:
    """Reads texts twice with a model.

    Args:
        model: shows its states; without a cache: it gets one here, and serves nothing else
            afterwards.
        instruction: tokens that ask to repeat what stands before them.
        num_tokens: of the longest text.
    """

    def __init__(self, model: PagedModel, instruction: Sequence[int], num_tokens: int) -> None:
        self._model = model
        self._instruction = list(instruction)
        self._taught = [n for n, layer in enumerate(model.layers) if not layer.sliding_window]
        model.reserve([pages_for(2 * num_tokens + len(instruction))] * len(model.layers))
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count())

    def teach(self, text: Sequence[int], rows: Ints) -> Lesson:
        """Scores of all tokens of ``text``, and states of those at ``rows``, ascending."""
        tokens = [*text, *self._instruction, *text]
        sequence = sequence_on_pages(tokens, self._model.layers)
        states = self._read(sequence, len(text), rows)
        peaks = self._read_again(sequence, len(text))
        scores = [np.empty((0, len(text)), np.float32) for _ in self._model.layers]
        for n in self._taught:
            by_query_head = peaks[n] + np.log(self._value_norms(sequence, n, len(text)))
            groups = by_query_head.reshape(self._model.layers[n].num_kv_heads, -1, len(text))
            scores[n] = groups.max(axis=1)
        return Lesson(states, scores)

    def _read(self, sequence: TokenSequence, num_tokens: int, rows: Ints) -> list[Floats]:
        """Read the first ``num_tokens``; by layer the states of ``rows``."""
        parts = []
        for first, batch in self._batches(sequence, num_tokens):
            inside = (rows >= first) & (rows < first + len(batch.input_ids))
            wanted = (rows[inside] - first).astype(np.int32)
            shown = self._model.forward(replace(batch, window_rows=wanted)).states
            if len(wanted):
                parts.append([np.array(shown[n]) for n in self._taught])
        states = [np.empty((0, 0), np.float32) for _ in self._model.layers]
        for n, chunks in zip(self._taught, zip(*parts, strict=True), strict=True):
            states[n] = np.concatenate(chunks)
        return states

    def _read_again(self, sequence: TokenSequence, num_tokens: int) -> dict[int, Floats]:
        """Read instruction and text; by layer ``[Hq, num_tokens]`` logarithms of the peaks."""
        layers = self._model.layers
        peaks = {
            n: np.full((layers[n].num_query_heads, num_tokens), _LEAST) for n in self._taught
        }
        for first, batch in self._batches(sequence, sequence.num_uncached):
            # Where it is asked to repeat, it looks at what it is asked.
            begin = max(0, num_tokens + len(self._instruction) - first)
            wanted = np.arange(begin, len(batch.input_ids), dtype=np.int32)
            shown = self._model.forward(replace(batch, window_rows=wanted))
            length = first + len(batch.input_ids)

            def raise_peaks(n: int) -> None:
                memory = self._model.memories[n]
                heads = (len(wanted), layers[n].num_query_heads, layers[n].key_head_size)
                attention_peaks(
                    np.ascontiguousarray(shown.queries[n]).reshape(heads),
                    self._model.scales[n],
                    memory.keys,
                    KEY_KINDS[memory.layout.key_type],
                    np.array(sequence.layers[n].pages, np.int32),
                    length,
                    -np.log(shown.residual_norms[n]),
                    peaks[n],
                )

            if len(wanted):
                list(self._threads.map(raise_peaks, self._taught))
        return peaks

    def _value_norms(self, sequence: TokenSequence, n: int, num_tokens: int) -> Floats:
        """``[Hq, num_tokens]``, size of what each token's value adds to the residual stream."""
        geometry = self._model.layers[n]
        values = read_values(
            self._model.memories[n],
            self._model.precisions[n].value,
            geometry.value_head_size,
            np.array(sequence.layers[n].pages, np.int32),
            num_tokens,
        )
        grams = self._model.output_grams[n]
        values = np.repeat(values, geometry.num_query_heads // geometry.num_kv_heads, axis=0)
        squares = ((values @ grams) * values).sum(axis=2)
        return np.sqrt(np.maximum(squares, np.float32(1e-30)))

    def _batches(self, sequence: TokenSequence, count: int) -> Iterator[tuple[int, Batch]]:
        """The next ``count`` tokens in chunks, each with the place of its first."""
        end = sequence.num_cached + count
        while sequence.num_cached < end:
            first = sequence.num_cached
            chunk = Chunk.of(sequence, min(_ROWS_AT_ONCE, end - first))
            yield first, replace(build_batch([chunk]), sampled_rows=_NONE)
            sequence.append(chunk.count)
