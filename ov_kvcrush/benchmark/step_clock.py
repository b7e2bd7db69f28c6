"""A clock on the parts of our engine's step: where the time of a benchmark goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.compiled_graph import Forward
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.scheduling.scheduler import Schedule
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Sequence

READING, DECODING = "reading", "decoding"
SELECTING, MOVING = "selecting", "moving"
SAMPLING, SCHEDULING, REST = "sampling", "scheduling", "rest"
INFERENCES = (READING, DECODING)
INFERENCE = "inference"
"""Both together, where a side does not tell them apart."""

PARTS = (INFERENCE, *INFERENCES, SELECTING, MOVING, SAMPLING, SCHEDULING, REST)
"""In the order in which they are shown."""

T = TypeVar("T")


class StepClock:
    """Times the scheduler, the model and the eviction of an engine.

    Its public methods alone are wrapped, so that its own steps stay as they are. An inference that
    has a chunk of a prompt in it is one that reads, whoever decodes beside it.

    Args:
        engine: to be timed, for the rest of its life.

    Attributes:
        used_bytes: of the pool, at most.
        num_computed_tokens: by all steps.
        num_in_step: sequences computed in the last step.
    """

    def __init__(self, engine: PagedEngine) -> None:
        self._engine = engine
        self._seconds: dict[str, float] = {}
        self.used_bytes = 0
        self.num_computed_tokens = 0
        self.num_in_step = 0
        schedule, forward = engine.scheduler.schedule, engine.model.forward
        accumulate, compress = engine.eviction.accumulate, engine.eviction.compress
        rewriting = engine.cache.rewriting

        def timed_schedule() -> Schedule:
            chosen = self._timed(SCHEDULING, schedule)
            self.num_in_step = len(chosen.chunks)
            self.used_bytes = max(self.used_bytes, engine.cache.used_bytes)
            self.num_computed_tokens += sum(chunk.count for chunk in chosen.chunks)
            return chosen

        def timed_forward(batch: Batch) -> Forward:
            reads = len(batch.input_ids) > len(batch.chunks)  # a token of each otherwise
            return self._timed(READING if reads else DECODING, lambda: forward(batch))

        def timed_accumulate(sequence: Sequence, queries: SequenceOf[NDArray[np.float32]]) -> None:
            self._timed(SELECTING, lambda: accumulate(sequence, queries))

        def timed_compress(sequence: Sequence, cache: KVCache) -> bool:
            moving = self._seconds.get(MOVING, 0.0)
            done = self._timed(SELECTING, lambda: compress(sequence, cache))
            self._seconds[SELECTING] -= self._seconds.get(MOVING, 0.0) - moving
            return done

        @contextmanager
        def timed_rewriting(
            sequence: Sequence, changed: Mapping[int, Any]
        ) -> Generator[Any, None, None]:
            begun = time.perf_counter()
            try:
                with rewriting(sequence, changed) as tables:
                    yield tables
            finally:
                self._add(MOVING, time.perf_counter() - begun)

        engine.scheduler.schedule = timed_schedule  # type: ignore[method-assign]
        engine.model.forward = timed_forward  # type: ignore[method-assign]
        engine.eviction.accumulate = timed_accumulate  # type: ignore[method-assign]
        engine.eviction.compress = timed_compress  # type: ignore[method-assign]
        engine.cache.rewriting = timed_rewriting  # type: ignore[method-assign,assignment]

    def restart(self) -> None:
        """Count from nothing."""
        self._seconds.clear()
        self.used_bytes = self.num_computed_tokens = self.num_in_step = 0

    def parts(self, metrics: Iterable[GenerationMetrics], seconds: float) -> dict[str, float]:
        """Seconds by part since it was restarted.

        Args:
            metrics: of everything generated since.
            seconds: passed since.
        """
        sampling: dict[float, float] = {}  # by the step's own time: its sequences share it
        for one in metrics:
            sampling |= one.sampling_times
        parts = {**self._seconds, SAMPLING: sum(sampling.values())}
        parts[REST] = max(0.0, seconds - sum(parts.values()))
        return {name: parts[name] for name in PARTS if name in parts}

    def _timed(self, part: str, function: Callable[[], T]) -> T:
        begun = time.perf_counter()
        try:
            return function()
        finally:
            self._add(part, time.perf_counter() - begun)

    def _add(self, part: str, seconds: float) -> None:
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds
