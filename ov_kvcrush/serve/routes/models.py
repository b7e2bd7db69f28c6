"""``/models``: what is served, and how much it reads."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from ov_kvcrush.serve.errors import model_not_found
from ov_kvcrush.serve.service import Service

router = APIRouter()


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """All names of the model."""
    service: Service = request.app.state.service
    return {"object": "list", "data": [_model(service, n) for n in service.settings.model_names]}


@router.get("/models/{name:path}")
async def model(name: str, request: Request) -> dict[str, Any]:
    """One of them."""
    service: Service = request.app.state.service
    if name not in service.settings.model_names:
        raise model_not_found(name, service.settings.model_names)
    return _model(service, name)


def _model(service: Service, name: str) -> dict[str, Any]:
    body = {"id": name, "object": "model", "created": int(service.began_at)}
    length = service.usable_pipeline().context_length or None
    return {**body, "owned_by": "ov-kvcrush", "max_model_len": length}
