"""What each token of a text turns out to be worth when the text is repeated.

That is what the gate has to predict. KVzip (arXiv 2505.23416) scores a token by the highest
attention it gets while the model repeats the text; KVzap (arXiv 2601.07891) counts with it how much
the token's value then adds to the residual stream (KVzip+).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.eviction.layer_threads import LayerThreads
from ov_kvcrush.runtime.eviction.measuring import attention_peaks
from ov_kvcrush.runtime.model.batch import Batch, build_batch
from ov_kvcrush.runtime.model.compiled_graph import Forward
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.key_codec import KEY_KINDS
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.pages.value_codec import read_values
from ov_kvcrush.runtime.sequences.sequence import Chunk, sequence_on_pages
from ov_kvcrush.runtime.sequences.sequence import Sequence as TokenSequence

Floats = NDArray[np.float32]

# Rows whose queries are in memory at a time.
_ROWS_AT_ONCE = 512
_NO_ROWS = np.empty(0, np.int32)
# The logarithm of a peak before there is one.
_LEAST = np.float32(-1e30)


@dataclass(frozen=True)
class Lesson:
    """What the teacher found in a text; empty arrays for layers with a sliding window.

    Attributes:
        states: by layer ``[rows, hidden]``, what entered the K projection in the first reading.
        scores: by layer ``[H, tokens]``, natural logarithm of every token's score.
    """

    states: list[Floats]
    scores: list[Floats]


class Teacher:
    """Reads texts twice with a model.

    Args:
        model: compiled with ``shows_states``, if states are wanted or values are weighed.
        instruction: tokens that ask to repeat what stands before them.
        weighs_values: whether a value's part counts in the scores (KVzip+), or attention alone
            (KVzip).
    """

    def __init__(
        self, model: PagedModel, instruction: Sequence[int], weighs_values: bool = True
    ) -> None:
        self._model = model
        self._weighs_values = weighs_values
        self._instruction = list(instruction)
        self._taught = [n for n, layer in enumerate(model.layers) if not layer.sliding_window]
        self._threads = LayerThreads()

    def reserve(self, num_tokens: int) -> None:
        """Give the model a cache for texts of up to ``num_tokens``."""
        num_pages = pages_for(2 * num_tokens + len(self._instruction))
        self._model.reserve([num_pages] * len(self._model.layers))

    def teach(self, text: Sequence[int], rows: NDArray[np.int64]) -> Lesson:
        """Scores of all tokens of ``text``, and states of those at ``rows``, ascending.

        In the model's cache from its first page on.
        """
        repeated = [*text, *self._instruction, *text]
        sequence = sequence_on_pages(repeated, self._model.layers)
        states = self._read_states(sequence, len(text), rows)
        return Lesson(states, self.scores(sequence, len(text)))

    def read(self, sequence: TokenSequence, num_tokens: int) -> None:
        """Read the next ``num_tokens`` of ``sequence``."""
        for _, batch in self._batches(sequence, num_tokens):
            self._model.forward(batch)

    def scores(self, sequence: TokenSequence, num_tokens: int) -> list[Floats]:
        """Scores of the ``num_tokens`` that ``sequence`` has cached, as in a lesson.

        Reads on behind them: instruction and text.
        """
        peaks = self._read_again(sequence, num_tokens)
        scores = [np.empty((0, num_tokens), np.float32) for _ in self._model.layers]
        for n in self._taught:
            if self._weighs_values:
                peaks[n] += np.log(self._value_norms(sequence, n, num_tokens))
            by_head = peaks[n].reshape(self._model.layers[n].num_kv_heads, -1, num_tokens)
            scores[n] = by_head.max(axis=1)
        return scores

    def _read_states(
        self, sequence: TokenSequence, num_tokens: int, rows: NDArray[np.int64]
    ) -> list[Floats]:
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
        """Read on; by layer ``[Hq, num_tokens]`` the logarithm of the highest attention."""
        heads = {n: self._model.layers[n].num_query_heads for n in self._taught}
        peaks = {n: np.full((heads[n], num_tokens), _LEAST) for n in self._taught}
        for first, batch in self._batches(sequence, sequence.num_uncached):
            # What asks for the repetition does not repeat.
            begin = max(0, num_tokens + len(self._instruction) - first)
            wanted = np.arange(begin, len(batch.input_ids), dtype=np.int32)
            shown = self._model.forward(replace(batch, window_rows=wanted))
            if len(wanted):
                self._raise_peaks(peaks, sequence, first + len(batch.input_ids), shown)
        return peaks

    def _raise_peaks(
        self, peaks: dict[int, Floats], sequence: TokenSequence, length: int, shown: Forward
    ) -> None:
        """Raise ``peaks`` to the attention of queries that end a cache of ``length`` tokens."""

        def raise_layer(n: int) -> None:
            memory, layer = self._model.memories[n], self._model.layers[n]
            queries = np.ascontiguousarray(shown.queries[n])
            log_weights = np.zeros(len(queries), np.float32)
            if self._weighs_values:
                # A row without a stream, of a token that is embedded as zeros, tells nothing.
                norms = shown.residual_norms[n]
                log_weights -= np.log(norms, out=np.full_like(norms, -_LEAST), where=norms > 0)
            attention_peaks(
                queries.reshape(len(queries), layer.num_query_heads, layer.key_head_size),
                self._model.scales[n],
                memory.keys,
                KEY_KINDS[memory.layout.key_type],
                np.array(sequence.layers[n].pages, np.int32),
                length,
                log_weights,
                peaks[n],
            )

        self._threads.map(raise_layer, self._taught)

    def _value_norms(self, sequence: TokenSequence, n: int, num_tokens: int) -> Floats:
        """``[Hq, num_tokens]``, size of what each token's value adds to the residual stream."""
        values = read_values(
            self._model.memories[n],
            self._model.precisions[n].value,
            self._model.layers[n].value_head_size,
            np.array(sequence.layers[n].pages, np.int32),
            num_tokens,
        )
        grams = self._model.output_grams[n]
        squares = np.empty((len(grams), num_tokens), np.float32)
        for head, gram in enumerate(grams):
            value = values[head * len(values) // len(grams)]
            squares[head] = np.einsum("td,td->t", value @ gram, value)
        norms: Floats = np.sqrt(np.maximum(squares, np.float32(1e-30)))
        return norms

    def _batches(self, sequence: TokenSequence, count: int) -> Iterator[tuple[int, Batch]]:
        """The next ``count`` tokens in chunks, each with the place of its first; read in turn."""
        end = sequence.num_cached + count
        while sequence.num_cached < end:
            first = sequence.num_cached
            chunk = Chunk.of(sequence, min(_ROWS_AT_ONCE, end - first))
            yield first, replace(build_batch([chunk]), sampled_rows=_NO_ROWS)
            sequence.append(chunk.count)
