"""From OpenAI's messages to a history that a chat template reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from openvino_genai import ChatHistory

from ov_kvcrush.serve.errors import invalid
from ov_kvcrush.serve.schemas import ChatRequest, Message, TokenizeRequest
from ov_kvcrush.serve.settings import ServeSettings
from ov_kvcrush.serve.tools.calls import Call, is_bare
from ov_kvcrush.serve.tools.style import ToolStyle

# What a template is given beside a request's own arguments.
_RESERVED = frozenset(
    {"add_generation_prompt", "bos_token", "eos_token", "messages", "pad_token", "tools"}
)


def chat_history(
    request: ChatRequest | TokenizeRequest,
    settings: ServeSettings,
    style: ToolStyle | None = None,
) -> ChatHistory:
    """The conversation of ``request``, with its tools and arguments for the chat template.

    Args:
        request: of a client.
        settings: of the server.
        style: in which the template spells calls; None where that is not known.

    Raises:
        ApiError: 400, with the field that is wrong.
    """
    messages = request.messages or []
    if len(messages) > settings.max_messages:
        raise invalid(
            f"{len(messages):,} messages, and at most {settings.max_messages:,} are taken",
            "messages",
        )
    history = ChatHistory([read_message(one, place, style) for place, one in enumerate(messages)])
    if request.tool_functions:
        history.set_tools([function.for_template() for function in request.tool_functions])
    context = _template_context(request)
    if context:
        history.set_extra_context(context)
    return history


def read_message(
    message: Message, place: int = 0, style: ToolStyle | None = None
) -> dict[str, Any]:
    """A message as chat templates know it.

    Parts of text are joined by line breaks, and null is empty. The pipeline makes ``developer``
    ``system`` for templates that do not know it. Calls are spelled as they came from the model, so
    that what is cached of them is gone on from; a template would spell their arguments anew.

    Args:
        message: of a request.
        place: in it, from 0.
        style: in which the template spells calls; None leaves it to the template.

    Raises:
        ApiError: 400, where there is nothing to read.
    """
    said = message.model_fields_set
    if message.role != "assistant" and "content" not in said:
        raise invalid(f"the role {message.role} needs content", f"messages.{place}.content")
    read: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.role == "assistant":
        if message.tool_calls:
            spelled = _spelled(message, style)
            if spelled is not None:
                read["content"] = spelled
            else:
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


def _spelled(message: Message, style: ToolStyle | None) -> str | None:
    """Text and calls of ``message``; None where the template has to spell them."""
    if style is None or not style.as_content:
        return None
    calls = [
        Call(call.id, call.function.name, call.function.arguments or "{}")
        for call in message.tool_calls or []
    ]
    if not all(_is_object(call.arguments) for call in calls):
        return None
    if style.is_marked and not message.text and all(is_bare(call.id) for call in calls):
        return style.spell_bare(calls)
    return style.spell(calls, message.text)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
