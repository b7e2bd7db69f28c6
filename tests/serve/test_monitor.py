"""What Prometheus is told: names, labels, and the very figures of the engine and of the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, Metric
from prometheus_client.parser import text_string_to_metric_families

from ov_kvcrush import LLMPipeline
from ov_kvcrush.runtime.engine_metrics import TPOT_BOUNDS, TTFT_BOUNDS
from tests.support.server import RunningServer, serving

GAUGES = (
    *("kv_cache_pool_bytes", "kv_cache_used_bytes", "kv_cache_bytes", "sequences_running"),
    *("sequences_waiting", "requests_in_flight", "ready", "engine_step_age_seconds"),
    *("sessions", "build_info"),
)
COUNTERS = (
    *("requests", "requests_ended", "prompt_tokens", "prompt_tokens_reused", "generated_tokens"),
    *("drafted_tokens", "accepted_tokens", "evicted_tokens", "preemptions", "prefix_hits"),
    *("session_restarts", "rejected"),
)
HISTOGRAMS = (
    *("time_to_first_token_seconds", "time_per_output_token_seconds"),
    *("request_seconds", "queue_seconds"),
)
OF_VLLM = {
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:prefix_cache_hits": "counter",
}
# What openvino_genai's engine does not tell.
UNKNOWN = {"drafted_tokens", "accepted_tokens", "preemptions", "prefix_hits"}


def scraped(server: RunningServer) -> dict[str, Metric]:
    response = server.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def value(families: dict[str, Metric], name: str, /, **labels: str) -> float:
    """Of the one sample of that name that has these labels."""
    family = name.removesuffix("_total").removesuffix("_count").removesuffix("_sum")
    samples = families[family].samples
    found = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
    assert len(found) == 1, (name, labels)
    return found[0]


def answered(server: RunningServer, text: str = "Hello", **fields: Any) -> None:
    """Have ``server`` answer, and wait until it has noted so: a reply may come a moment sooner."""
    log, pipeline = server.service.log, server.service.pipeline
    assert pipeline is not None
    num_ended = sum(log.ends.values())
    num_finished = pipeline.snapshot().ended.num_finished
    assert server.chat(text, ignore_eos=True, **fields).status_code == 200
    server.wait_until(lambda: sum(log.ends.values()) > num_ended)
    server.wait_until(lambda: pipeline.snapshot().ended.num_finished > num_finished)


@pytest.fixture
def served(pipeline: LLMPipeline) -> Iterator[RunningServer]:
    """A server that has answered nobody yet."""
    with serving(lambda: pipeline) as running:
        yield running


def test_every_metric_has_its_name_its_type_and_its_model(served: RunningServer) -> None:
    families = scraped(served)
    expected = {
        **{f"ov_kvcrush_{name}": "gauge" for name in GAUGES},
        **{f"ov_kvcrush_{name}": "counter" for name in COUNTERS},
        **{f"ov_kvcrush_{name}": "histogram" for name in HISTOGRAMS},
        **OF_VLLM,
    }
    assert {name: family.type for name, family in families.items()} == expected
    for family in families.values():
        assert family.documentation.endswith(".")
        assert all(sample.labels["model"] == "needle" for sample in family.samples)
    owners = [sample.labels["owner"] for sample in families["ov_kvcrush_kv_cache_bytes"].samples]
    assert owners == ["running", "waiting", "chats", "prefixes"]


def test_requests_are_counted_by_what_became_of_them(served: RunningServer) -> None:
    before = scraped(served)
    for reason in ("stop", "length", "tool_calls", "cancelled", "error"):
        assert value(before, "ov_kvcrush_requests_ended_total", reason=reason) == 0
    answered(served, max_tokens=5)
    assert served.chat(max_tokens=10**6).status_code == 400
    after = scraped(served)
    chats = {"endpoint": "/v1/chat/completions"}
    assert value(after, "ov_kvcrush_requests_total", code="200", **chats) == 1
    assert value(after, "ov_kvcrush_requests_total", code="400", **chats) == 1
    assert value(after, "ov_kvcrush_requests_total", endpoint="/metrics", code="200") == 1
    assert value(after, "ov_kvcrush_requests_ended_total", reason="length") == 1
    assert value(after, "ov_kvcrush_rejected_total", why="context") == 1
    assert value(after, "ov_kvcrush_rejected_total", why="busy") == 0
    assert value(after, "ov_kvcrush_queue_seconds_count") == 1
    log = served.service.log
    assert value(after, "ov_kvcrush_request_seconds_sum") == pytest.approx(log.seconds.sum)


def test_the_engines_figures_are_told_as_they_are(served: RunningServer) -> None:
    for ending in ("", "And now?"):
        answered(served, "The grass is green. " * 40 + ending, max_tokens=30)
    assert served.service.pipeline is not None
    metrics, families = served.service.pipeline.snapshot(), scraped(served)
    ended = metrics.ended
    assert ended.num_reused_tokens > 0
    told = {
        "ov_kvcrush_kv_cache_pool_bytes": metrics.pool_bytes,
        "ov_kvcrush_kv_cache_used_bytes": metrics.used_bytes,
        "ov_kvcrush_prompt_tokens_total": ended.num_prompt_tokens,
        "ov_kvcrush_prompt_tokens_reused_total": ended.num_reused_tokens,
        "ov_kvcrush_generated_tokens_total": ended.num_generated_tokens,
        "ov_kvcrush_prefix_hits_total": metrics.num_prefix_hits,
        "vllm:prefix_cache_hits_total": ended.num_reused_tokens,
        "vllm:kv_cache_usage_perc": metrics.used_bytes / metrics.pool_bytes,
    }
    assert {name: value(families, name) for name in told} == pytest.approx(told)
    for owner, held in metrics.owners.items():
        assert value(families, "ov_kvcrush_kv_cache_bytes", owner=owner) == held


@pytest.mark.parametrize(
    ("name", "bounds"),
    [("time_to_first_token_seconds", TTFT_BOUNDS), ("time_per_output_token_seconds", TPOT_BOUNDS)],
)
def test_histograms_have_the_engines_buckets(
    served: RunningServer, name: str, bounds: tuple[float, ...]
) -> None:
    answered(served, max_tokens=8)
    family = scraped(served)[f"ov_kvcrush_{name}"]
    buckets = [(s.labels["le"], s.value) for s in family.samples if s.name.endswith("_bucket")]
    assert [float(bound) for bound, _ in buckets] == [*bounds, float("inf")]
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == value({family.name: family}, f"ov_kvcrush_{name}_count") > 0


def test_what_an_engine_does_not_tell_is_left_out(needle_int8_dir: Path) -> None:
    with serving(lambda: LLMPipeline(needle_int8_dir, engine="genai")) as other:
        answered(other, max_tokens=3)
        families = scraped(other)
    assert {f"ov_kvcrush_{name}" for name in COUNTERS} - families.keys() == {
        f"ov_kvcrush_{name}" for name in UNKNOWN
    }
    assert value(families, "ov_kvcrush_generated_tokens_total") > 0


def test_nothing_is_left_in_the_librarys_own_registry(served: RunningServer) -> None:
    scraped(served)
    assert not [family.name for family in REGISTRY.collect() if "kvcrush" in family.name]
