"""Our engine with a clock on each part of its step: where the time of a benchmark goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.scheduling.scheduler import Schedule


class TimedEngine(PagedEngine):
    """The paged engine with a clock on each part of its step.

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
        self._scheduler.schedule = self._clocked("scheduling", self._scheduler.schedule)
        self._take_in = self._clocked("taking in", self._take_in)
        self._sample = self._clocked("sampling", self._sample)
        self._compress = self._clocked("selecting and moving", self._compress)
        self._settle = self._clocked("finishing", self._settle)
        self._account = self._counted(self._account)
        self.model.forward = self._clocked_forward(self.model.forward)

    def _clocked(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def clocked(*args: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args)
            finally:
                self._add(part, time.perf_counter() - begun)

        return clocked

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(schedule: Schedule) -> Any:
            self.num_in_step = len(schedule.chunks)
            self.peak_bytes = self.cache.used_bytes
            self.num_computed_tokens += sum(chunk.count for chunk in schedule.chunks)
            return function(schedule)

        return counted

    def _clocked_forward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def clocked(batch: Any) -> Any:
            begun = time.perf_counter()
            result = function(batch)
            reads = len(batch.input_ids) > self.num_in_step  # a token of each otherwise
            self._add(
                "inference that reads prompts" if reads else "inference that only decodes",
                time.perf_counter() - begun,
            )
            return result

        return clocked

    def _add(self, part: str, seconds: float) -> None:
        self.parts[part] = self.parts.get(part, 0.0) + seconds
