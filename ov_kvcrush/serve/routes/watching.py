"""``/health``, ``/ready``, ``/metrics``, ``/stats``: answered at once, whatever the engine does."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse

from ov_kvcrush.serve.condition import DRAINING, FAILED, READY, condition
from ov_kvcrush.serve.errors import ApiError, engine_failed, loading, shutting_down
from ov_kvcrush.serve.monitor import exposition
from ov_kvcrush.serve.service import Service
from ov_kvcrush.serve.stats import stats

router = APIRouter()


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """Whether the server works; 503 where only a new process helps."""
    now = condition(request.app.state.service)
    if now == FAILED:
        raise _why_not(now)
    return {"status": now}


@router.head("/ready", include_in_schema=False)
@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """Whether it takes requests; 503 where it does not."""
    now = condition(request.app.state.service)
    if now != READY:
        raise _why_not(now)
    return {"status": now}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """What Prometheus scrapes."""
    service: Service = request.app.state.service
    return Response(exposition(service), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/stats")
async def statistics(request: Request, response: Response) -> dict[str, Any]:
    """What the page shows: the cache by owner, who is answered, the last requests; no text."""
    service: Service = request.app.state.service
    response.headers["Cache-Control"] = "no-store"
    return stats(service)


def _why_not(now: str) -> ApiError:
    """The error that a server in this condition answers with."""
    if now == FAILED:
        return engine_failed()
    return shutting_down() if now == DRAINING else loading()
