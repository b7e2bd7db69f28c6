"""``/chat/completions``: the next message of a conversation."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ov_kvcrush.serve.answers import AnswerResponse
from ov_kvcrush.serve.chat_reply import ChatReply
from ov_kvcrush.serve.schemas import ChatRequest
from ov_kvcrush.serve.service import Service
from ov_kvcrush.serve.turn import Turn

router = APIRouter()


@router.post("/chat/completions")
async def chat(body: ChatRequest, request: Request) -> Response:
    """The assistant's next message."""
    service: Service = request.app.state.service
    turn = Turn(service, request, body)
    name = service.settings.model_names[0]
    reply = ChatReply.of(body, name, service.texts, tools=turn.tools)
    return AnswerResponse(service, request.state.record, turn, reply, bool(body.stream))
