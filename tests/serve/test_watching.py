"""Who watches a server is answered at once, in whatever condition it is."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.serve import condition
from tests.support.pipelines import engine_in
from tests.support.server import RunningServer, serving

PATHS = ("/health", "/ready", "/metrics", "/stats")
LONG = "The grass is green. The sky is blue. The sun is yellow. " * 250


@pytest.fixture
def served(pipeline: LLMPipeline) -> Iterator[RunningServer]:
    """A server that nothing has happened to."""
    with serving(lambda: pipeline) as running:
        yield running


@contextmanager
def busy(server: RunningServer, pipeline: LLMPipeline) -> Iterator[None]:
    """The engine of ``server`` in a step that does not end before the block does."""
    engine, ending = engine_in(pipeline), threading.Event()
    step = engine.step

    def endless() -> Any:
        ending.wait()
        return step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "step", endless)
        asking = threading.Thread(target=lambda: server.chat(LONG, max_tokens=2))
        asking.start()
        try:
            server.wait_until(lambda: step_began(server))
            yield
        finally:
            ending.set()
            patch.undo()
            asking.join()


def step_began(server: RunningServer) -> bool:
    assert server.service.pipeline is not None
    return server.service.pipeline.health().step_began_at is not None


def test_a_server_that_takes_requests_says_so(served: RunningServer) -> None:
    assert served.client.get("/health").json() == {"status": "ready"}
    assert served.client.get("/ready").json() == {"status": "ready"}
    assert served.client.head("/health").status_code == 200
    assert served.client.head("/ready").status_code == 200
    assert served.client.get("/stats").json()["condition"] == "ready"


def test_nobody_who_watches_waits_for_the_engine(
    served: RunningServer, pipeline: LLMPipeline
) -> None:
    with busy(served, pipeline):
        for path in PATHS:
            assert served.client.get(path, timeout=5).status_code == 200
        stats = served.client.get("/stats").json()
        assert stats["step_seconds"] > 0
        (one,) = stats["open"]
        assert (one["endpoint"], one["state"]) == ("/v1/chat/completions", "waiting")
        assert one["prompt_tokens"] > 1000


def test_a_step_without_an_end_is_a_failure(
    served: RunningServer, pipeline: LLMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with busy(served, pipeline):
        monkeypatch.setattr(condition, "MAX_STEP_SECONDS", 0.0)
        assert_failed(served)


def test_a_server_whose_steps_fail_says_so(
    served: RunningServer, pipeline: LLMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise RuntimeError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(engine_in(pipeline), "step", failing)
        for _ in range(3):
            assert served.client.get("/health").status_code == 200
            assert served.chat().status_code == 500
    assert_failed(served)
    assert served.client.get("/stats").json()["condition"] == "failed"
    assert "ov_kvcrush_ready{" in served.client.get("/metrics").text


def assert_failed(server: RunningServer) -> None:
    for path in ("/health", "/ready"):
        response = server.client.get(path)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_failed"


def test_a_server_that_loads_its_model_lives_and_is_not_ready(pipeline: LLMPipeline) -> None:
    loaded = threading.Event()

    def load() -> LLMPipeline:
        loaded.wait()
        return pipeline

    with serving(load, wait=False) as server:
        assert server.client.get("/health").json() == {"status": "loading"}
        refused = server.client.get("/ready")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "loading"
        stats = server.client.get("/stats").json()
        assert stats["condition"] == "loading"
        assert stats["engine"] is None
        metrics = server.client.get("/metrics").text
        assert 'ov_kvcrush_ready{model="needle"} 0.0' in metrics
        assert "kv_cache" not in metrics
        loaded.set()
        server.wait_until(lambda: server.client.get("/ready").status_code == 200, 30)


def test_a_model_that_cannot_be_loaded_is_a_failure() -> None:
    def load() -> LLMPipeline:
        raise OSError("injected")

    with serving(load, wait=False) as server:
        server.wait_until(lambda: server.client.get("/health").status_code == 503)
        assert_failed(server)


def test_a_server_that_drains_lives_and_is_not_ready(served: RunningServer) -> None:
    served.service.draining = True
    assert served.client.get("/health").json() == {"status": "draining"}
    refused = served.client.get("/ready")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "shutting_down"
    served.service.draining = False  # for the drain at the end


def test_last_requests_are_told_without_their_texts(served: RunningServer) -> None:
    secret = "The fierce statue costs 4229 coins. " * 20
    for number in range(12):
        served.chat(f"{secret} {number}", max_tokens=4, ignore_eos=True)
    served.wait_until(lambda: served.service.log.ends.total() == 12)
    response = served.client.get("/stats")
    assert response.headers["cache-control"] == "no-store"
    assert "statue" not in response.text
    stats = response.json()
    assert stats["model"] == "needle"
    assert stats["open"] == []
    assert len(stats["last"]) == 10
    times = [one["began_at"] for one in stats["last"]]
    assert times == sorted(times, reverse=True)
    newest = stats["last"][0]
    assert newest["end"] == "length"
    assert newest["status"] == 200
    assert newest["generated_tokens"] == 4
    assert newest["prompt_tokens"] > newest["cached_tokens"] > 0
    assert 0 < newest["ttft_seconds"] <= newest["seconds"]
    assert newest.keys().isdisjoint({"text", "messages", "prompt"})
    assert stats["engine"]["kv_cache"]["chats_bytes"] > 0


def test_a_request_whose_client_leaves_is_open_no_more(served: RunningServer) -> None:
    with served.stream(max_tokens=7000, ignore_eos=True) as lines:
        next(lines)
        served.wait_until(lambda: bool(served.client.get("/stats").json()["open"]))
    served.wait_until(lambda: not served.client.get("/stats").json()["open"])
    assert served.client.get("/stats").json()["last"][0]["end"] == "cancelled"


def test_figures_ask_for_the_key_and_health_does_not(pipeline: LLMPipeline) -> None:
    keys = {hashlib.sha256(b"of-alice").digest(): "alice"}
    with serving(lambda: pipeline, key="of-alice", keys=keys) as guarded:
        for path in PATHS:
            assert guarded.client.get(path).status_code == 200
        statuses = [httpx2.get(guarded.url + path).status_code for path in PATHS]
        assert statuses == [200, 200, 401, 401]
        guarded.chat(max_tokens=2)
        guarded.wait_until(lambda: bool(guarded.service.log.last))
        assert guarded.client.get("/stats").json()["last"][0]["key"] == "alice"


def test_the_log_has_no_line_for_who_only_watches(
    pipeline: LLMPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level("INFO", "ov_kvcrush.access"),
        serving(lambda: pipeline, access_log=True) as server,
    ):
        for path in PATHS:
            server.client.get(path)
        server.client.get("/v1/models")
        server.client.get("/nowhere")
    lines = [record.getMessage().split(" id=")[0] for record in caplog.records]
    assert [line for line in lines if line.startswith("GET")] == [
        "GET /v1/models 200",
        "GET other 404",
    ]
