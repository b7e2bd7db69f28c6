"""What schemathesis makes of the API, right and wrong, never makes the server fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.serve.schemas import ErrorReply
from tests.support.pipelines import engine_in
from tests.support.server import RunningServer, serving

schemathesis = pytest.importorskip("schemathesis", reason="needs Python 3.11")
hypothesis = pytest.importorskip("hypothesis")

OPERATIONS = [
    "DELETE /v1/prefixes/{id}",
    "GET /health",
    "GET /metrics",
    "GET /ready",
    "GET /stats",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /v1/prefixes",
    "GET /v1/prefixes/{id}",
    "POST /detokenize",
    "POST /tokenize",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/prefixes",
    "POST /v1/responses",
]
# Of each operation, half of them right.
MAX_EXAMPLES = 60


@pytest.fixture(scope="module")
def brief(needle_int8_dir: Path) -> LLMPipeline:
    """Its answers end soon, whatever is asked for."""
    config = KVCacheConfig(max_cache_size=128, pool_size=4096)
    return LLMPipeline(needle_int8_dir, kv_cache_config=config, context_length=96)


@pytest.fixture(scope="module")
def described(brief: LLMPipeline) -> Iterator[RunningServer]:
    with serving(lambda: brief, max_answer_tokens=4) as running:
        yield running


@pytest.fixture(scope="module")
def operations(described: RunningServer) -> dict[str, Any]:
    """By method and path."""
    schema = schemathesis.openapi.from_url(f"{described.url}/openapi.json")
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


def test_every_path_is_described(operations: dict[str, Any]) -> None:
    assert sorted(operations) == OPERATIONS


@pytest.mark.parametrize("label", OPERATIONS)
def test_nothing_that_is_sent_makes_the_server_fail(
    described: RunningServer, operations: dict[str, Any], label: str
) -> None:
    operation = operations[label]

    def check(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "needle"  # others are sent away at once
        reply = case.call(timeout=60)
        assert reply.status_code < 500, reply.text
        if reply.status_code >= 400:
            ErrorReply.model_validate_json(reply.content)
        else:
            assert b'data: {"error"' not in reply.content

    quiet = hypothesis.settings(
        max_examples=MAX_EXAMPLES // 2,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        try:
            cases = operation.as_strategy(generation_mode=mode)
            quiet(hypothesis.given(case=cases)(check))()
        except hypothesis.errors.Unsatisfiable:
            assert mode == schemathesis.GenerationMode.NEGATIVE  # where nothing can be wrong
    described.wait_until(lambda: described.service.admission.num_open == 0)
    assert described.chat(max_tokens=1).status_code == 200


def test_nothing_is_left_behind(described: RunningServer, brief: LLMPipeline) -> None:
    described.wait_until(lambda: described.num_at_work == 0)
    with brief.loaded_model.lock:
        engine_in(brief).check_integrity()
