"""``/tokenize`` and ``/detokenize``: what a prompt is to the model, without an answer."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from ov_kvcrush.serve.errors import invalid
from ov_kvcrush.serve.messages import chat_history
from ov_kvcrush.serve.schemas import DetokenizeRequest, TokenizeRequest
from ov_kvcrush.serve.service import Service

router = APIRouter()


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
    """Token ids of a conversation or a text, as a request would read it."""
    service: Service = request.app.state.service
    pipeline = service.usable_pipeline()
    service.require_model(body.model or "")
    if (body.messages is None) == (body.prompt is None):
        raise invalid("give messages or a prompt, one of them", "prompt")
    if body.prompt is None:
        inputs: Any = chat_history(body, service.settings, service.tools.style)
    else:
        inputs = body.prompt
    tokens = await asyncio.to_thread(
        pipeline.encode, inputs, body.add_special_tokens, body.add_generation_prompt
    )
    length = pipeline.context_length or None
    return {"count": len(tokens), "tokens": tokens, "max_model_len": length}


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, Any]:
    """The text of token ids, special tokens too."""
    service: Service = request.app.state.service
    pipeline = service.usable_pipeline()
    service.require_model(body.model or "")
    return {"prompt": await asyncio.to_thread(pipeline.decode, body.tokens)}
