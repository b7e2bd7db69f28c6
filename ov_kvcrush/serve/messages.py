"""From OpenAI's messages to a history that a chat template reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openvino_genai import ChatHistory

from ov_kvcrush.serve.errors import invalid
from ov_kvcrush.serve.schemas import ChatRequest, Message, TokenizeRequest
from ov_kvcrush.serve.settings import ServeSettings

# What a template is given beside a request's own arguments.
_RESERVED = frozenset(
    {"add_generation_prompt", "bos_token", "eos_token", "messages", "pad_token", "tools"}
)


def chat_history(request: ChatRequest | TokenizeRequest, settings: ServeSettings) -> ChatHistory:
    """The conversation of ``request``, with its arguments for the chat template.

    Raises:
        ApiError: 400, with the field that is wrong.
    """
    messages = request.messages or []
    if len(messages) > settings.max_messages:
        raise invalid(
            f"{len(messages):,} messages, and at most {settings.max_messages:,} are taken",
            "messages",
        )
    history = ChatHistory([read_message(one, place) for place, one in enumerate(messages)])
    context = _template_context(request)
    if context:
        history.set_extra_context(context)
    return history


def read_message(message: Message, place: int = 0) -> dict[str, Any]:
    """A message as chat templates know it.

    Parts of text are joined by line breaks, and null is empty. The pipeline makes ``developer``
    ``system`` for templates that do not know it. A tool's call stays as the model wrote it.

    Args:
        message: of a request.
        place: in it, from 0.

    Raises:
        ApiError: 400, where there is nothing to read.
    """
    said = message.model_fields_set
    if message.role != "assistant" and "content" not in said:
        raise invalid(f"the role {message.role} needs content", f"messages.{place}.content")
    read: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.role == "assistant":
        if message.tool_calls:
            read["tool_calls"] = [call.model_dump() for call in message.tool_calls]
        if reasoning := message.reasoning_content or message.reasoning:
            read["reasoning_content"] = reasoning
    if message.role == "tool":
        read |= {
            name: value
            for name, value in (("tool_call_id", message.tool_call_id), ("name", message.name))
            if value
        }
    return read


def _template_context(request: ChatRequest | TokenizeRequest) -> Mapping[str, Any]:
    context = dict(request.chat_template_kwargs or {})
    for name in sorted(_RESERVED & context.keys()):
        raise invalid(
            f"{name} is not an argument of chat templates that a request may give",
            f"chat_template_kwargs.{name}",
        )
    if request.reasoning_effort is not None:
        context.setdefault("reasoning_effort", request.reasoning_effort)
    return context
