"""Our engine with a clock on the parts of its step: where the time of a benchmark goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.compiled_graph import Forward
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.scheduling.scheduler import Schedule
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Sequence

T = TypeVar("T")


class TimedEngine(PagedEngine):
    """The paged engine with a clock on its scheduler, its model and its eviction.

    Attributes:
        parts: seconds by part since it was last cleared.
        num_in_step: sequences computed in the last step.
        peak_bytes: of the pool, during the last step's inference: the most it holds in a step.
        num_computed_tokens: by all steps.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parts: dict[str, float] = {}
        self.num_in_step = 0
        self.peak_bytes = 0
        self.num_computed_tokens = 0
        schedule, forward = self.scheduler.schedule, self.model.forward
        accumulate, compress = self.eviction.accumulate, self.eviction.compress

        def timed_schedule() -> Schedule:
            chosen = self._timed("scheduling", schedule)
            self.num_in_step = len(chosen.chunks)
            self.peak_bytes = self.cache.used_bytes
            self.num_computed_tokens += sum(chunk.count for chunk in chosen.chunks)
            return chosen

        def timed_forward(batch: Batch) -> Forward:
            reads = len(batch.input_ids) > len(batch.chunks)  # a token of each otherwise
            kind = "inference that reads prompts" if reads else "inference that only decodes"
            return self._timed(kind, lambda: forward(batch))

        def timed_accumulate(sequence: Sequence, queries: SequenceOf[NDArray[np.float32]]) -> None:
            self._timed("selecting and moving", lambda: accumulate(sequence, queries))

        def timed_compress(sequence: Sequence, cache: KVCache) -> bool:
            return self._timed("selecting and moving", lambda: compress(sequence, cache))

        # Public methods alone, each in place of itself: the engine's own steps stay as they are.
        self.scheduler.schedule = timed_schedule  # type: ignore[method-assign]
        self.model.forward = timed_forward  # type: ignore[method-assign]
        self.eviction.accumulate = timed_accumulate  # type: ignore[method-assign]
        self.eviction.compress = timed_compress  # type: ignore[method-assign]

    def _timed(self, part: str, function: Callable[[], T]) -> T:
        begun = time.perf_counter()
        try:
            return function()
        finally:
            self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - begun
