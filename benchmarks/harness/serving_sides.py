"""The sides of the serving benchmark: many requests through our engine, or openvino_genai's.

Each is stepped until every request is answered. Times run from the moment all requests arrive.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from openvino_genai import ContinuousBatchingPipeline, SchedulerConfig, Tokenizer

from harness.contestants import greedy, prompt_tensor
from harness.timed_engine import TimedEngine
from harness.workload import tokens
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.runtime.genai.eviction import GenaiEviction
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, pages_for


@dataclass(frozen=True)
class Workload:
    """What is to be served, and with what.

    Attributes:
        requests: how many, all arriving at once.
        tokens_in: of each prompt; no two share a beginning.
        tokens_out: of each answer, greedily and past any end-of-sequence token.
        max_num_batched_tokens: of one inference.
        max_num_seqs: sequences that run at once.
        properties: passed to the plugin.
        decode_precision: of ours.
    """

    requests: int
    tokens_in: int
    tokens_out: int
    max_num_batched_tokens: int
    max_num_seqs: int
    properties: dict[str, Any]
    decode_precision: str | None = None

    def prompts(self) -> list[list[int]]:
        """Token ids of every prompt."""
        return [tokens(self.tokens_in, seed) for seed in range(self.requests)]


@dataclass
class Outcome:
    """What serving a workload took.

    Attributes:
        pool_bytes: of the page pool.
        seconds: from arrival to the last token.
        cpu_seconds: of the process meanwhile, all threads; other processes slow it less.
        peak_bytes: most of the pool in use at a time.
        token_times: seconds since arrival of each token of each completed request.
        steps: duration of each, and how many sequences were computed in it.
        num_preemptions: how often a sequence lost its cache; None where the side does not tell.
        num_computed_tokens: all that were read, those read again included; likewise.
        parts: seconds by part of our step.
    """

    pool_bytes: int
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    token_times: list[list[float]] = field(default_factory=list)
    steps: list[tuple[float, int]] = field(default_factory=list)
    num_preemptions: int | None = None
    num_computed_tokens: int | None = None
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def completed(self) -> int:
        """Requests with a whole answer."""
        return len(self.token_times)

    @property
    def requests_per_minute(self) -> float:
        """Completed ones, by the wall clock."""
        return 60 * self.completed / self.seconds

    @property
    def requests_per_cpu_minute(self) -> float:
        """Completed ones, by the processors' time."""
        return 60 * self.completed / self.cpu_seconds

    @property
    def mean_concurrency(self) -> float:
        """Sequences computed together, by time."""
        return sum(took * count for took, count in self.steps) / sum(s for s, _ in self.steps)

    @property
    def ttft(self) -> list[float]:
        """Seconds to the first token of each request, waiting included."""
        return [times[0] for times in self.token_times]

    @property
    def tpot(self) -> list[float]:
        """Mean seconds per token after the first of each request."""
        return [(t[-1] - t[0]) / max(1, len(t) - 1) for t in self.token_times]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        body = asdict(self)
        del body["token_times"], body["steps"]
        return {
            **body,
            "completed": self.completed,
            "requests_per_minute": self.requests_per_minute,
            "requests_per_cpu_minute": self.requests_per_cpu_minute,
            "mean_concurrency": self.mean_concurrency,
            "max_concurrency": max(count for _, count in self.steps),
            "num_steps": len(self.steps),
            "ttft_seconds": _median_and_p95(self.ttft),
            "tpot_ms": _median_and_p95([1e3 * one for one in self.tpot]),
        }


def serve_ours(folder: Path, config: KVCacheConfig, workload: Workload) -> Outcome:
    """ov-kvcrush's paged engine; ``config`` has the budget and the pool."""
    engine = TimedEngine(
        folder,
        Tokenizer(folder),
        config=config,
        properties=workload.properties,
        limits=EngineLimits(workload.max_num_batched_tokens, workload.max_num_seqs),
        decode_precision=workload.decode_precision,
    )
    _finish(engine, [engine.add_request(tokens(workload.tokens_in, 999), greedy(4))])
    engine.parts.clear()
    engine.num_computed_tokens = 0
    outcome = Outcome(pool_bytes=engine.cache.max_bytes)
    with _timed(outcome) as begun:
        config_out = greedy(workload.tokens_out)
        requests = [engine.add_request(prompt, config_out) for prompt in workload.prompts()]
        while engine.has_unfinished():
            step_begun = time.perf_counter()
            engine.step()
            outcome.steps.append((time.perf_counter() - step_begun, engine.num_in_step))
            outcome.peak_bytes = max(outcome.peak_bytes, engine.peak_bytes)
    generations = [request.generations[0] for request in requests]
    outcome.token_times = [
        [moment - begun for moment in one.metrics.token_times]
        for one in generations
        if len(one.tokens) == workload.tokens_out
    ]
    outcome.num_preemptions = sum(one.metrics.num_preemptions for one in generations)
    outcome.num_computed_tokens = engine.num_computed_tokens
    known = sum(engine.parts.values())
    outcome.parts = {**engine.parts, "rest": outcome.seconds - known}
    engine.check_integrity()
    return outcome


def _finish(engine: PagedEngine, requests: Sequence[Any]) -> None:
    while not all(request.finished for request in requests):
        engine.step()


def serve_theirs(folder: Path, config: KVCacheConfig, workload: Workload) -> Outcome:
    """openvino_genai's continuous batching with its own eviction and KVCrush."""
    scheduler = SchedulerConfig()
    scheduler.max_num_batched_tokens = workload.max_num_batched_tokens
    scheduler.max_num_seqs = workload.max_num_seqs
    scheduler.dynamic_split_fuse = True
    scheduler.num_kv_blocks = pages_for(config.pool_size or 0)
    scheduler.use_cache_eviction = True
    scheduler.cache_eviction_config = GenaiEviction.of(config, PAGE_SIZE).to_genai()
    pipeline = ContinuousBatchingPipeline(
        folder, Tokenizer(folder), scheduler, "CPU", **workload.properties
    )
    pipeline.generate([prompt_tensor(tokens(workload.tokens_in, 999))], [greedy(4)])
    outcome = Outcome(pool_bytes=pipeline.get_metrics().kv_cache_size_in_bytes)
    with _timed(outcome) as begun:
        answer = greedy(workload.tokens_out)
        handles = [
            pipeline.add_request(number, prompt_tensor(prompt), answer)
            for number, prompt in enumerate(workload.prompts())
        ]
        times: list[list[float]] = [[] for _ in handles]
        while pipeline.has_non_finished_requests():
            step_begun = time.perf_counter()
            pipeline.step()
            now = time.perf_counter()
            metrics = pipeline.get_metrics()
            outcome.steps.append((now - step_begun, metrics.scheduled_requests))
            used = round(metrics.cache_usage / 100 * outcome.pool_bytes)
            outcome.peak_bytes = max(outcome.peak_bytes, used)
            for handle, moments in zip(handles, times, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        moments += [now - begun] * len(output.generated_ids)
    outcome.token_times = [moments for moments in times if len(moments) == workload.tokens_out]
    return outcome


@contextmanager
def _timed(outcome: Outcome) -> Iterator[float]:
    begun, cpu_begun = time.perf_counter(), time.process_time()
    yield begun
    outcome.seconds = time.perf_counter() - begun
    outcome.cpu_seconds = time.process_time() - cpu_begun


def _median_and_p95(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"median": median(values), "p95": float(np.percentile(values, 95))}
