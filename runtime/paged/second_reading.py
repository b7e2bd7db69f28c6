"""A stretch of a document read a second time, before its cut: what it looks at then is to stay.

The tokens are read behind an instruction to repeat them, on pages that go afterwards.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ov_kvcrush.runtime.eviction.cut_plan import MOST_INSTRUCTION
from ov_kvcrush.runtime.eviction.peaks import INSTRUCTION, PeakMeter, Peaks
from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.model.batch import build_batch
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

# Of the tokens that are read again, every so many are asked what they look at. Asking all of them
# takes nearly four times as long to measure; over the few texts tried it was not better.
_STRIDE = 4


class SecondReading:
    """Reads again what a sequence has read since it was cut.

    Args:
        model: reads.
        cache: gives the pages, for a moment.
        meter: measures what is looked at.
        tokenizer: of the model.
        context_length: tokens that the model was made for; 0 where they are not bounded.
        most: tokens of one inference.
    """

    def __init__(
        self,
        model: PagedModel,
        cache: KVCache,
        meter: PeakMeter,
        tokenizer: Tokenizer,
        context_length: int,
        most: int,
    ) -> None:
        self._model = model
        self._cache = cache
        self._meter = meter
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._most = most
        self._instruction: list[int] = []

    def prepare(self) -> None:
        """Have ready what the first second reading would have to wait for."""
        self._meter.prepare()
        if not self._instruction:
            encoded = self._tokenizer.encode(INSTRUCTION, add_special_tokens=False)
            ids = encoded.input_ids.data[0].tolist()
            self._instruction = [int(token) for token in ids][-MOST_INSTRUCTION:]

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
        if not self._meter.budgeted:
            return True
        self.prepare()
        count = self._meter.num_to_measure(sequence)
        cached = sequence.tokens[: sequence.num_cached]
        again = sequence.bare_twin(cached)
        try:
            # What is repeated stands there, and what is older was scored among its own. To see no
            # more than that takes half the time.
            self._cache.lend(sequence, again, count, self._meter.budgeted)
            peaks = self._meter.begin(again)
            for part in _parts(cached[-count:], self._most - len(self._instruction)):
                again.tokens = [*cached, *self._instruction, *part]
                if not self._cache.extend(again, again.num_uncached):
                    return False
                held = self._bytes_of(sequence, again)
                metrics.kv_bytes_peak = max(metrics.kv_bytes_peak, held)
                self._read_part(again, len(part), peaks, metrics)
                again.rewind_cache_to(len(cached))
        finally:
            self._cache.release(again)
        self._meter.end(sequence, peaks, count)
        return True

    def _read_part(
        self, again: Sequence, count: int, peaks: Peaks, metrics: GenerationMetrics
    ) -> None:
        """Read the rest of ``again``, whose last ``count`` tokens are those of the document."""
        chunk = Chunk.of(again, again.num_uncached)
        batch = build_batch([chunk])
        # What it would say next is of no interest, nor what it looks at where it is asked to.
        asked = np.arange(chunk.count - count + (count - 1) % _STRIDE, chunk.count, _STRIDE)
        batch = replace(
            batch,
            position_ids=batch.position_ids - self._beyond_context(again),
            sampled_rows=np.empty(0, np.int32),
            window_rows=asked.astype(np.int32),
        )
        begun = time.perf_counter()
        told = self._model.forward(batch)
        ended = time.perf_counter()
        again.append(chunk.count)
        self._meter.measure(again, told.queries, _STRIDE, peaks)
        metrics.inference_times[begun] = ended - begun
        metrics.compression_time += time.perf_counter() - ended

    def _beyond_context(self, again: Sequence) -> int:
        """By how many tokens ``again`` is longer than what the model was made for."""
        return max(0, len(again.tokens) - self._context_length) if self._context_length else 0

    def _bytes_of(self, sequence: Sequence, again: Sequence) -> int:
        """Bytes of the pages of both, those that they share counted once."""
        tables = zip(sequence.page_tables, again.page_tables, strict=True)
        return self._cache.bytes_of_pages([len({*its, *mine}) for its, mine in tables])


def _parts(tokens: list[int], most: int) -> list[list[int]]:
    """``tokens`` in as few parts as have at most ``most`` of them.

    Even ones: a short last one would not fill the processor.
    """
    count = -(-len(tokens) // most)
    bounds = [len(tokens) * part // count for part in range(count + 1)]
    return [tokens[begin:end] for begin, end in pairwise(bounds)]
