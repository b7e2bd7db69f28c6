"""Whether a server works and takes requests: known at once, whatever its engine is busy with."""

from __future__ import annotations

import time

from ov_kvcrush.serve.service import MAX_FAILED_STEPS, Service

LOADING, READY, DRAINING, FAILED = "loading", "ready", "draining", "failed"

MAX_STEP_SECONDS = 300.0
"""A step of the engine that takes longer than this is not expected to end."""


def condition(service: Service) -> str:
    """``loading``, ``ready``, ``draining`` or ``failed``: only a new process helps the last."""
    if _has_failed(service):
        return FAILED
    if service.draining:
        return DRAINING
    return LOADING if service.pipeline is None else READY


def step_seconds(service: Service) -> float:
    """How long the engine has been at the step that it computes; 0 between two."""
    began_at = None if service.pipeline is None else service.pipeline.health().step_began_at
    return 0.0 if began_at is None else max(0.0, time.monotonic() - began_at)


def _has_failed(service: Service) -> bool:
    if service.pipeline is None:
        task = service.loading
        is_done = task is not None and task.done() and not task.cancelled()
        return is_done and task is not None and task.exception() is not None
    health = service.pipeline.health()
    return (
        health.broken
        or health.steps_failed_in_a_row >= MAX_FAILED_STEPS
        or step_seconds(service) > MAX_STEP_SECONDS
        # A server that drains closes its engine at the end.
        or not (health.alive or service.draining)
    )
