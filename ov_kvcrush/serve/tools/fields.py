"""Fields of requests that tell of tools: what may be called, and what is to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from ov_kvcrush.serve.fields import JsonObject, Model, Text, unsupported

FUNCTION = "function"
MODES = ("none", "auto", "required")

Name = Annotated[Text, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class FunctionDefinition(Model):
    """A function that an answer may call.

    Attributes:
        name: of it.
        description: for the model.
        parameters: JSON Schema of its arguments; without one it has none.
        strict: taken and always so, where a grammar keeps answers to schemas.
    """

    name: Name
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    def for_template(self) -> dict[str, Any]:
        """As chat templates know it."""
        return {
            "type": FUNCTION,
            "function": self.model_dump(exclude={"strict"}, exclude_none=True),
        }


class FunctionTool(Model):
    """A tool of ``/v1/chat/completions``."""

    type: Literal["function"]
    function: FunctionDefinition


class FlatFunctionTool(FunctionDefinition):
    """A tool of ``/v1/responses``."""

    type: Literal["function"]


@dataclass(frozen=True)
class ToolChoice:
    """What an answer is to be.

    Attributes:
        mode: ``none`` calls nothing, ``auto`` may call, ``required`` calls.
        names: functions that may be called; None stands for all.
        is_one: a single call of a single function.
    """

    mode: str = "auto"
    names: tuple[str, ...] | None = None
    is_one: bool = False


class NamedFunction(Model):
    """The name of a function."""

    name: Text


class NamedTool(Model):
    """A function that is to be called, as ``/v1/chat/completions`` names it."""

    type: Literal["function"]
    function: NamedFunction


class FlatNamedTool(NamedFunction):
    """A function that is to be called, as ``/v1/responses`` names it."""

    type: Literal["function"]


def _require_function(tool: Any) -> Any:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if isinstance(kind, str) and kind != FUNCTION:
        raise unsupported(f"tools of the type {kind!r:.40} are not served here")
    return tool


def _read_choice(choice: Any) -> Any:
    """Either API's spelling as a :class:`ToolChoice`."""
    if isinstance(choice, ToolChoice):
        return choice
    if isinstance(choice, str) and choice in MODES:
        return ToolChoice(choice)
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == FUNCTION:
        return ToolChoice("required", (_name_in(choice),), is_one=True)
    if kind == "allowed_tools":
        # OpenAI's chats have them in a field, its responses not.
        allowed = choice.get("allowed_tools", choice)
        tools = allowed.get("tools") if isinstance(allowed, dict) else None
        if not isinstance(tools, list) or not tools or allowed.get("mode") not in MODES[1:]:
            raise PydanticCustomError(
                "tool_choice", "allowed tools have a mode, auto or required, and a list of tools"
            )
        return ToolChoice(allowed["mode"], tuple(_name_in(tool) for tool in tools))
    if isinstance(kind, str):
        raise unsupported(f"tools of the type {kind!r:.40} are not served here")
    raise PydanticCustomError(
        "tool_choice", "tool_choice is none, auto, required, or names a function"
    )


def _name_in(tool: Any) -> str:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise PydanticCustomError("tool_choice", "a tool that is chosen is named by its function")
    return name


_CheckedTool = BeforeValidator(_require_function)

Tools = list[Annotated[FunctionTool, _CheckedTool]]
"""Of a chat."""

FlatTools = list[Annotated[FlatFunctionTool, _CheckedTool]]
"""Of a response."""

Choice = Annotated[
    ToolChoice,
    BeforeValidator(
        _read_choice, json_schema_input_type=Literal["none", "auto", "required"] | NamedTool
    ),
]
"""``tool_choice`` of a chat."""

FlatChoice = Annotated[
    ToolChoice,
    BeforeValidator(
        _read_choice, json_schema_input_type=Literal["none", "auto", "required"] | FlatNamedTool
    ),
]
"""``tool_choice`` of a response."""
