"""What an engine holds now and what it has done since it was made, for those who watch it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from openvino_genai import GenerationFinishReason

from ov_kvcrush.runtime.generation.metrics import GenerationMetrics

if TYPE_CHECKING:
    from ov_kvcrush.runtime.generation.request import Request

# vLLM's, so that dashboards made for it fit. Seconds.
TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TPOT_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)


@dataclass
class Histogram:
    """How often a time was at most so long, as Prometheus counts it.

    Attributes:
        bounds: of the buckets, seconds, ascending; one without a bound follows.
        sum: of all times, seconds.
    """

    bounds: tuple[float, ...]
    sum: float = 0.0
    _counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._counts = [0] * (len(self.bounds) + 1)

    def add(self, seconds: float) -> None:
        """Count one more."""
        self._counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    @property
    def cumulative(self) -> tuple[int, ...]:
        """Times at or below each bound."""
        return tuple(accumulate(self._counts[:-1]))

    @property
    def count(self) -> int:
        """All times."""
        return sum(self._counts)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; ``buckets`` by their bound, the last by ``+Inf``."""
        buckets = {f"{b:g}": n for b, n in zip(self.bounds, self.cumulative, strict=True)}
        return {"buckets": {**buckets, "+Inf": self.count}, "count": self.count, "sum": self.sum}


@dataclass
class EndedSequences:
    """Sums over the sequences that have ended, cancelled ones included; an engine tells it of each.

    Each of several return sequences counts.

    Attributes:
        num_finished: sequences that came to their end.
        num_cancelled: those that were ended from outside.
        num_prompt_tokens: tokens of their prompts.
        num_reused_tokens: those of them that were in the cache already.
        num_generated_tokens: tokens generated.
        num_drafted_tokens: tokens that were guessed; None where the engine does not tell.
        num_accepted_tokens: those of them that were right; likewise.
        num_kept_tokens: tokens in the cache when they ended, of the average KV head.
        num_evicted_tokens: tokens that were no longer.
        num_preemptions: how often a cache had to be given up and computed again; None where the
            engine does not tell.
        ttft: seconds to the first token.
        tpot: seconds per token after the first, the mean of each sequence.
    """

    num_finished: int = 0
    num_cancelled: int = 0
    num_prompt_tokens: int = 0
    num_reused_tokens: int = 0
    num_generated_tokens: int = 0
    num_drafted_tokens: int | None = 0
    num_accepted_tokens: int | None = 0
    num_kept_tokens: int = 0
    num_evicted_tokens: int = 0
    num_preemptions: int | None = 0
    ttft: Histogram = field(default_factory=lambda: Histogram(TTFT_BOUNDS))
    tpot: Histogram = field(default_factory=lambda: Histogram(TPOT_BOUNDS))

    def add(self, metrics: GenerationMetrics, *, cancelled: bool) -> None:
        """Take in what a sequence has cost, once it is known.

        Args:
            metrics: of the sequence.
            cancelled: whether it was ended from outside.
        """
        self.num_cancelled += cancelled
        self.num_finished += not cancelled
        self.num_prompt_tokens += metrics.num_prompt_tokens
        self.num_reused_tokens += metrics.num_reused_tokens
        self.num_generated_tokens += metrics.num_generated_tokens
        self.num_kept_tokens += metrics.kv_tokens
        self.num_evicted_tokens += metrics.num_evicted_tokens
        if self.num_drafted_tokens is not None and self.num_accepted_tokens is not None:
            self.num_drafted_tokens += metrics.num_drafted_tokens
            self.num_accepted_tokens += metrics.num_accepted_tokens
        if self.num_preemptions is not None:
            self.num_preemptions += metrics.num_preemptions
        if metrics.num_generated_tokens:
            self.ttft.add(metrics.ttft)
        if metrics.num_generated_tokens > 1:
            self.tpot.add(metrics.tpot)


@dataclass
class EndedRequests:
    """How requests have ended; one with several return sequences is one.

    Attributes:
        num_finished: those whose sequences came to their end.
        num_cancelled: those that were ended from outside.
        num_failed: those that something of their own ended.
    """

    num_finished: int = 0
    num_cancelled: int = 0
    num_failed: int = 0

    def add(self, request: Request) -> None:
        """Take in a request that has ended."""
        reasons = {generation.finish_reason for generation in request.generations}
        is_cancelled = GenerationFinishReason.NONE in reasons
        if request.error is not None:
            self.num_failed += 1
        elif is_cancelled:
            self.num_cancelled += 1
        else:
            self.num_finished += 1


@dataclass(frozen=True)
class EngineMetrics:
    """One look at an engine. None is what an engine does not tell.

    Attributes:
        used_bytes: of the KV cache in use now.
        pool_bytes: it may use.
        owners: bytes held now by kind of owner: ``running`` and ``waiting`` sequences, ``chats``
            between two requests, ``prefixes`` that others may begin with. Shared pages count for
            each owner.
        num_running: sequences that run.
        num_waiting: those that wait for pages or for their turn.
        num_requests: that have not ended.
        num_prefix_hits: sequences that began with a cached prefix since the engine was made.
        ended: sums over the sequences that have ended since then; a copy.
        ended_requests: how requests have ended since then; a copy.
    """

    used_bytes: int
    pool_bytes: int
    owners: Mapping[str, int]
    num_running: int
    num_waiting: int
    num_requests: int
    num_prefix_hits: int | None
    ended: EndedSequences
    ended_requests: EndedRequests

    def to_dict(self) -> dict[str, Any]:
        """JSON values, grouped."""
        ended, requests = self.ended, self.ended_requests
        return {
            "kv_cache": {
                "used_bytes": self.used_bytes,
                "pool_bytes": self.pool_bytes,
                **{f"{kind}_bytes": held for kind, held in self.owners.items()},
            },
            "requests": {
                "open": self.num_requests,
                "finished": requests.num_finished,
                "cancelled": requests.num_cancelled,
                "failed": requests.num_failed,
            },
            "sequences": {
                "running": self.num_running,
                "waiting": self.num_waiting,
                "finished": ended.num_finished,
                "cancelled": ended.num_cancelled,
                "preemptions": ended.num_preemptions,
                "prefix_hits": self.num_prefix_hits,
            },
            "tokens": {
                "prompt": ended.num_prompt_tokens,
                "reused": ended.num_reused_tokens,
                "generated": ended.num_generated_tokens,
                "drafted": ended.num_drafted_tokens,
                "accepted": ended.num_accepted_tokens,
                "kept": ended.num_kept_tokens,
                "evicted": ended.num_evicted_tokens,
            },
            "ttft_seconds": ended.ttft.to_dict(),
            "tpot_seconds": ended.tpot.to_dict(),
        }
