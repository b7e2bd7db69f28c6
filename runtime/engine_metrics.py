"""What an engine holds now and what it has done since it was made, for those who watch it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from ov_kvcrush.metrics import GenerationMetrics

# vLLM's, so that dashboards made for it fit. Seconds.
TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TPOT_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)


@dataclass(frozen=True)
class Histogram:
    """How often a time was at most so long, as Prometheus counts it.

    Attributes:
        bounds: of the buckets, seconds, ascending; one without a bound follows.
        cumulative: times at or below each bound.
        count: all times.
        sum: of all times, seconds.
    """

    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]
    count: int
    sum: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values; ``buckets`` by their bound, the last by ``+Inf``."""
        buckets = {f"{b:g}": n for b, n in zip(self.bounds, self.cumulative, strict=True)}
        return {"buckets": {**buckets, "+Inf": self.count}, "count": self.count, "sum": self.sum}


@dataclass(frozen=True)
class EngineMetrics:
    """One look at an engine. None is what an engine does not tell.

    Counts since it was made are of sequences that have ended, cancelled ones included; each of
    several return sequences counts.

    Attributes:
        used_bytes: of the KV cache in use now.
        pool_bytes: it may use.
        owners: bytes held now by kind of owner: ``running`` and ``waiting`` sequences, ``chats``
            between two requests, ``prefixes`` that others may begin with. Shared pages count for
            each owner.
        num_running: sequences that run.
        num_waiting: those that wait for pages or for their turn.
        num_finished: sequences that came to their end.
        num_cancelled: those that were ended from outside.
        num_prompt_tokens: tokens of their prompts.
        num_reused_tokens: those of them that were in the cache already.
        num_generated_tokens: tokens generated.
        num_kept_tokens: tokens in the cache when they ended, of the average layer.
        num_evicted_tokens: tokens that were no longer.
        num_preemptions: how often a cache had to be given up and computed again.
        num_prefix_hits: sequences that began with a cached prefix.
        ttft: seconds to the first token.
        tpot: seconds per token after the first, the mean of each sequence.
    """

    used_bytes: int
    pool_bytes: int
    owners: Mapping[str, int]
    num_running: int
    num_waiting: int
    num_finished: int
    num_cancelled: int
    num_prompt_tokens: int
    num_reused_tokens: int
    num_generated_tokens: int
    num_kept_tokens: int
    num_evicted_tokens: int
    num_preemptions: int | None
    num_prefix_hits: int | None
    ttft: Histogram
    tpot: Histogram

    def to_dict(self) -> dict[str, Any]:
        """JSON values, grouped."""
        return {
            "kv_cache": {
                "used_bytes": self.used_bytes,
                "pool_bytes": self.pool_bytes,
                **{f"{kind}_bytes": held for kind, held in self.owners.items()},
            },
            "requests": {
                "running": self.num_running,
                "waiting": self.num_waiting,
                "finished": self.num_finished,
                "cancelled": self.num_cancelled,
                "preemptions": self.num_preemptions,
                "prefix_hits": self.num_prefix_hits,
            },
            "tokens": {
                "prompt": self.num_prompt_tokens,
                "reused": self.num_reused_tokens,
                "generated": self.num_generated_tokens,
                "kept": self.num_kept_tokens,
                "evicted": self.num_evicted_tokens,
            },
            "ttft_seconds": self.ttft.to_dict(),
            "tpot_seconds": self.tpot.to_dict(),
        }


class _Times:
    """Times, counted by bucket as they come."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def snapshot(self) -> Histogram:
        *cumulative, count = accumulate(self._counts)
        return Histogram(self._bounds, tuple(cumulative), count, self._sum)


@dataclass
class EndedSequences:
    """Sums over the sequences that have ended; an engine tells it of each."""

    num_finished: int = 0
    num_cancelled: int = 0
    num_prompt_tokens: int = 0
    num_reused_tokens: int = 0
    num_generated_tokens: int = 0
    num_kept_tokens: int = 0
    num_evicted_tokens: int = 0
    num_preemptions: int = 0
    _ttft: _Times = field(default_factory=lambda: _Times(TTFT_BOUNDS))
    _tpot: _Times = field(default_factory=lambda: _Times(TPOT_BOUNDS))

    def add(self, metrics: GenerationMetrics, cancelled: bool) -> None:
        """Take in what a sequence has cost, once it is known."""
        self.num_cancelled += cancelled
        self.num_finished += not cancelled
        self.num_prompt_tokens += metrics.num_prompt_tokens
        self.num_reused_tokens += metrics.num_reused_tokens
        self.num_generated_tokens += metrics.num_generated_tokens
        self.num_kept_tokens += metrics.kv_tokens
        self.num_evicted_tokens += metrics.num_evicted_tokens
        self.num_preemptions += metrics.num_preemptions
        if metrics.num_generated_tokens:
            self._ttft.add(metrics.ttft)
        if metrics.num_generated_tokens > 1:
            self._tpot.add(metrics.tpot)

    def snapshot(
        self,
        *,
        used_bytes: int,
        pool_bytes: int,
        owners: Mapping[str, int],
        num_running: int,
        num_waiting: int,
        num_prefix_hits: int | None,
        tells_preemptions: bool = True,
    ) -> EngineMetrics:
        """These sums beside what is there now."""
        return EngineMetrics(
            used_bytes=used_bytes,
            pool_bytes=pool_bytes,
            owners=owners,
            num_running=num_running,
            num_waiting=num_waiting,
            num_finished=self.num_finished,
            num_cancelled=self.num_cancelled,
            num_prompt_tokens=self.num_prompt_tokens,
            num_reused_tokens=self.num_reused_tokens,
            num_generated_tokens=self.num_generated_tokens,
            num_kept_tokens=self.num_kept_tokens,
            num_evicted_tokens=self.num_evicted_tokens,
            num_preemptions=self.num_preemptions if tells_preemptions else None,
            num_prefix_hits=num_prefix_hits,
            ttft=self._ttft.snapshot(),
            tpot=self._tpot.snapshot(),
        )
