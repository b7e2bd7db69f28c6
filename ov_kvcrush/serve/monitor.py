"""What Prometheus is told of a server: its engine's figures, and what became of requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import version

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from ov_kvcrush.runtime.engine_metrics import EngineMetrics, Histogram
from ov_kvcrush.serve.condition import READY, condition, step_seconds
from ov_kvcrush.serve.service import Service

OURS = "ov_kvcrush_"
"""What the names of our metrics begin with."""

_LIBRARIES = ("openvino", "openvino-genai")

# Told from the start, with 0: a rate over what appears with its first event misses that one.
_ENDS = ("stop", "length", "tool_calls", "cancelled", "error")
_WHY_REJECTED = ("busy", "queue_timeout", "context", "key", "body")


def exposition(service: Service) -> bytes:
    """All metrics in Prometheus' text format; waits for nothing.

    Args:
        service: of the server. What belongs to its engine is left out until there is one, and what
            the engine does not tell always.
    """
    # Not the library's global one: whatever else runs in this process would be told as ours.
    registry = CollectorRegistry()
    registry.register(Monitor(service))
    return generate_latest(registry)


class Monitor:
    """Collects the metrics of one server for ``prometheus_client``.

    Args:
        service: of the server; its event loop's alone.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._model = service.settings.model_names[0]

    def collect(self) -> Iterator[Metric]:
        """All there is to tell now."""
        yield from self._of_server()
        yield from self._of_requests()
        if self._service.pipeline is not None:
            metrics = self._service.pipeline.snapshot()
            yield from self._of_cache(metrics)
            yield from self._of_sequences(metrics)
            yield from self._for_gateways(metrics)

    def _of_server(self) -> Iterator[Metric]:
        service = self._service
        build = InfoMetricFamily(f"{OURS}build", "What serves.", labels=("model",))
        build.add_metric((self._model,), _versions())
        yield build
        is_ready = condition(service) == READY
        yield self._gauge("ready", "1 where requests are taken, 0 otherwise.", is_ready)
        yield self._gauge(
            "requests_in_flight",
            "Requests that the engine has, or is about to get.",
            service.admission.num_in_flight,
        )
        yield self._gauge(
            "engine_step_age_seconds",
            "How long the engine has been at the step that it computes; 0 between two.",
            step_seconds(service),
        )
        if service.chats is not None:
            yield self._gauge("sessions", "Session keys that are known.", len(service.chats))

    def _of_requests(self) -> Iterator[Metric]:
        log = self._service.log
        yield self._counters(
            "requests",
            "HTTP requests that have been answered.",
            ("endpoint", "code"),
            {(endpoint, str(status)): n for (endpoint, status), n in log.requests.items()},
        )
        yield self._counters(
            "requests_ended", "Generations by how they ended.", ("reason",), _each(_ENDS, log.ends)
        )
        yield self._counters(
            "rejected",
            "Requests that were not taken, by why.",
            ("why",),
            _each(_WHY_REJECTED, log.rejected),
        )
        yield self._counter(
            "session_restarts", "Chats whose cache could not be gone on from.", log.num_restarts
        )
        yield self._histogram(
            "request_seconds", "From a generation's request to its last byte.", log.seconds
        )
        yield self._histogram(
            "queue_seconds", "From a generation's request to its first token.", log.queue_seconds
        )

    def _of_cache(self, metrics: EngineMetrics) -> Iterator[Metric]:
        yield self._gauge("kv_cache_pool_bytes", "That the KV cache may use.", metrics.pool_bytes)
        yield self._gauge("kv_cache_used_bytes", "Of the KV cache in use.", metrics.used_bytes)
        owners = GaugeMetricFamily(
            f"{OURS}kv_cache_bytes",
            "Of the KV cache by owner; pages that owners share count for each.",
            labels=("model", "owner"),
        )
        for owner, held in metrics.owners.items():
            owners.add_metric((self._model, owner), held)
        yield owners

    def _of_sequences(self, metrics: EngineMetrics) -> Iterator[Metric]:
        ended = metrics.ended
        yield self._gauge("sequences_running", "Sequences that run.", metrics.num_running)
        yield self._gauge(
            "sequences_waiting", "Those that wait for pages or their turn.", metrics.num_waiting
        )
        counts = (
            ("prompt_tokens", "Tokens of prompts.", ended.num_prompt_tokens),
            (
                "prompt_tokens_reused",
                "Tokens of prompts that were in the cache already.",
                ended.num_reused_tokens,
            ),
            ("generated_tokens", "Tokens generated.", ended.num_generated_tokens),
            (
                "drafted_tokens",
                "Tokens that prompt lookup has guessed.",
                ended.num_drafted_tokens,
            ),
            (
                "accepted_tokens",
                "Guessed tokens that were right.",
                ended.num_accepted_tokens,
            ),
            (
                "evicted_tokens",
                "Tokens no longer in the cache when their sequence ended, of the average KV head.",
                ended.num_evicted_tokens,
            ),
            (
                "preemptions",
                "How often a cache was given up and computed again.",
                ended.num_preemptions,
            ),
            (
                "prefix_hits",
                "Sequences that began with a cached prefix.",
                metrics.num_prefix_hits,
            ),
        )
        for name, about, value in counts:
            if value is not None:
                yield self._counter(name, about, value)
        yield self._histogram("time_to_first_token_seconds", "Of each sequence.", ended.ttft)
        yield self._histogram(
            "time_per_output_token_seconds",
            "After the first token, the mean of each sequence.",
            ended.tpot,
        )

    def _for_gateways(self, metrics: EngineMetrics) -> Iterator[Metric]:
        """What routers that know vLLM ask for, by its names and in its units."""
        share = metrics.used_bytes / metrics.pool_bytes if metrics.pool_bytes else 0.0
        # Its own label beside ours.
        names, values = ("model", "model_name"), (self._model, self._model)
        gauges = (
            ("vllm:num_requests_running", "As sequences_running.", metrics.num_running),
            ("vllm:num_requests_waiting", "As sequences_waiting.", metrics.num_waiting),
            ("vllm:kv_cache_usage_perc", "Share of the pool in use, 0 to 1.", share),
        )
        for name, about, value in gauges:
            gauge = GaugeMetricFamily(name, about, labels=names)
            gauge.add_metric(values, value)
            yield gauge
        # It counts tokens, not sequences.
        hits = CounterMetricFamily(
            "vllm:prefix_cache_hits", "As prompt_tokens_reused.", labels=names
        )
        hits.add_metric(values, metrics.ended.num_reused_tokens)
        yield hits

    def _gauge(self, name: str, about: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(OURS + name, about, labels=("model",))
        gauge.add_metric((self._model,), value)
        return gauge

    def _counter(self, name: str, about: str, value: int) -> Metric:
        return self._counters(name, about, (), {(): value})

    def _counters(
        self,
        name: str,
        about: str,
        labels: tuple[str, ...],
        values: Mapping[tuple[str, ...], int],
    ) -> Metric:
        counter = CounterMetricFamily(OURS + name, about, labels=("model", *labels))
        for label_values, value in values.items():
            counter.add_metric((self._model, *label_values), value)
        return counter

    def _histogram(self, name: str, about: str, times: Histogram) -> Metric:
        bounds = (*map(floatToGoString, times.bounds), "+Inf")
        counts = (*times.cumulative, times.count)
        histogram = HistogramMetricFamily(OURS + name, about, labels=("model",))
        histogram.add_metric((self._model,), [*zip(bounds, counts, strict=True)], times.sum)
        return histogram


@lru_cache
def _versions() -> dict[str, str]:
    """Of what serves; looked up once, since that reads files."""
    libraries = {name.replace("-", "_"): version(name) for name in _LIBRARIES}
    return {"version": version("ov-kvcrush"), **libraries}


def _each(known: Iterable[str], counted: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    """``counted`` by a tuple of one label, with 0 where one of ``known`` is missing."""
    return {(name,): n for name, n in {**dict.fromkeys(known, 0), **counted}.items()}
