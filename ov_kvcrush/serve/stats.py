"""What a server holds and does now, and its last requests, as JSON; never a text."""

from __future__ import annotations

import time
from typing import Any

from ov_kvcrush.serve.condition import condition, step_seconds
from ov_kvcrush.serve.request_log import RequestRecord
from ov_kvcrush.serve.service import Service


def stats(service: Service) -> dict[str, Any]:
    """A look at a server that waits for nothing.

    Times are seconds. ``engine`` is as ``AsyncLLMPipeline.get_metrics`` has it, null while the
    model is loaded; in its ``kv_cache``, pages that owners share count for each of them.
    ``open`` are the requests that are answered, the oldest first, ``last`` the newest first.

    Args:
        service: of the server.
    """
    pipeline, now = service.pipeline, time.time()
    return {
        "model": service.settings.model_names[0],
        "condition": condition(service),
        "uptime_seconds": now - service.began_at,
        "step_seconds": step_seconds(service),
        "sessions": None if service.chats is None else len(service.chats),
        "engine": None if pipeline is None else pipeline.snapshot().to_dict(),
        "open": [_open(record, now) for record in service.log.open],
        "last": [_ended(record) for record in service.log.last],
    }


def _open(record: RequestRecord, now: float) -> dict[str, Any]:
    return {
        **_known(record),
        "state": "waiting" if record.ttft is None else "answering",
        "seconds": max(0.0, now - record.began_at),
    }


def _ended(record: RequestRecord) -> dict[str, Any]:
    return {
        **_known(record),
        "cached_tokens": record.num_cached_tokens,
        "generated_tokens": record.num_generated_tokens,
        "status": record.status,
        "end": record.end,
        "restarted": record.restarted,
        "seconds": record.seconds,
    }


def _known(record: RequestRecord) -> dict[str, Any]:
    """What is known of a request from the moment that the engine has it."""
    return {
        "id": record.id,
        "endpoint": record.endpoint,
        "key": record.key,
        "began_at": record.began_at,
        "prompt_tokens": record.num_prompt_tokens,
        "ttft_seconds": record.ttft,
    }
