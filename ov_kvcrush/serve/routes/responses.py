"""``/responses``: the same answers as chats have, as items."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ov_kvcrush.serve.answers import AnswerResponse
from ov_kvcrush.serve.responses.reply import ResponsesReply
from ov_kvcrush.serve.responses.request import ResponsesRequest
from ov_kvcrush.serve.service import Service
from ov_kvcrush.serve.turn import Turn

router = APIRouter()

# What the API has for the fields of a chat.
_NAMES = {"max_completion_tokens": "max_output_tokens", "response_format": "text.format"}


@router.post("/responses")
async def responses(body: ResponsesRequest, request: Request) -> Response:
    """What follows the items of a conversation. It is not stored."""
    service: Service = request.app.state.service
    chat = body.to_chat()
    turn = Turn(service, request, chat, _NAMES)
    name = service.settings.model_names[0]
    reply = ResponsesReply(body, chat.num_top, name, service.texts, turn.tools)
    return AnswerResponse(service, request.state.record, turn, reply, bool(body.stream))
