"""A stretch of a document read a second time, before its cut: what it looks at then is to stay.

The tokens are read behind an instruction to repeat them, on pages that go afterwards.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ov_kvcrush.runtime.eviction.cut_plan import SECOND_READING_TOKENS
from ov_kvcrush.runtime.eviction.peaks import PeakMeter, Peaks
from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.model.batch import build_batch
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

INSTRUCTION = "\n\nRepeat the previous text exactly:\n"
_MOST_INSTRUCTION = 32
_NONE = np.empty(0, np.int32)


class SecondReading:
    """Reads again what a sequence has read since it was cut.

    Args:
        model: reads.
        cache: gives the pages, for a moment.
        meter: measures what is looked at.
        tokenizer: of the model.
        context_length: tokens that the model was made for; 0 where they are not bounded.
    """

    def __init__(
        self,
        model: PagedModel,
        cache: KVCache,
        meter: PeakMeter,
        tokenizer: Tokenizer,
        context_length: int,
    ) -> None:
        self._model = model
        self._cache = cache
        self._meter = meter
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._instruction: list[int] = []

    def prepare(self) -> None:
        """Have ready what the first second reading would have to wait for."""
        self._meter.prepare()
        if not self._instruction:
            encoded = self._tokenizer.encode(INSTRUCTION, add_special_tokens=False)
            ids = encoded.input_ids.data[0].tolist()
            self._instruction = [int(token) for token in ids][-_MOST_INSTRUCTION:]

    def read(self, sequence: Sequence, metrics: GenerationMetrics) -> bool:
        """Score the tokens of ``sequence`` if it stands at a thorough cut.

        Args:
            sequence: its newest tokens, those that have no scores yet, are read again.
            metrics: of it, told what that costs.

        Returns:
            False if there are no pages for it.
        """
        if not (sequence.is_cut_due and sequence.planned_cuts[0].thorough):
            return True
        self.prepare()
        end = sequence.num_cached
        count = self._meter.num_to_measure(sequence)
        most = SECOND_READING_TOKENS - len(self._instruction)
        # Even parts: a short last one would not fill the processor.
        num_parts = -(-count // most)
        bounds = [end - count + count * part // num_parts for part in range(num_parts)]
        peaks = self._meter.begin(sequence)
        for first, last in zip(bounds, [*bounds[1:], end], strict=True):
            if not self._read_part(sequence, first, last, peaks, metrics):
                return False
        self._meter.end(sequence, peaks)
        return True

    def _read_part(
        self,
        sequence: Sequence,
        first: int,
        last: int,
        peaks: Peaks,
        metrics: GenerationMetrics,
    ) -> bool:
        """Read tokens ``first`` … ``last - 1`` behind all that ``sequence`` has cached."""
        cached, part = sequence.tokens[: sequence.num_cached], sequence.tokens[first:last]
        again = sequence.bare_twin([*cached, *self._instruction, *part])
        try:
            self._cache.fork(sequence, again)
            if not self._cache.extend(again, again.num_uncached):
                return False
            metrics.kv_bytes_peak = max(metrics.kv_bytes_peak, self._bytes_of(sequence, again))
            chunk = Chunk.of(again, again.num_uncached)
            batch = build_batch([chunk])
            # What it would say next is of no interest, nor what it looks at where it is asked to.
            rows = np.arange(len(self._instruction), chunk.count, dtype=np.int32)
            positions = batch.position_ids - self._beyond_context(again)
            begun = time.perf_counter()
            told = self._model.forward(
                replace(batch, position_ids=positions, sampled_rows=_NONE, window_rows=rows)
            )
            ended = time.perf_counter()
            again.append(chunk.count)
            self._meter.measure(again, told.queries, peaks)
            metrics.inference_times[begun] = ended - begun
            metrics.compression_time += time.perf_counter() - ended
        finally:
            self._cache.release(again)
        return True

    def _beyond_context(self, again: Sequence) -> int:
        """By how many tokens ``again`` is longer than what the model was made for."""
        return max(0, len(again.tokens) - self._context_length) if self._context_length else 0

    def _bytes_of(self, sequence: Sequence, again: Sequence) -> int:
        """Bytes of the pages of both, those that they share counted once."""
        tables = zip(sequence.page_tables, again.page_tables, strict=True)
        return self._cache.bytes_of_pages([len({*its, *mine}) for its, mine in tables])
