"""Kinds of fields in requests: bounded ones, texts in either form, and those that are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

UNSUPPORTED = "unsupported_value"
"""Pydantic's type of an error, and OpenAI's code: a value that others take and this server not."""

# Beyond these JSON's numbers, which many programs read as floats, are no longer exact.
_LARGEST = 2**53
_NUM_IDS = 2**31
_DEEPEST = 32


class Model(BaseModel):
    """A JSON object of which what is not known is left out, and nothing converted."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Refused:
    """Marks a field that clients know and this server does not serve: it may ask for nothing.

    Attributes:
        what: that is not served, as the error says it.
        harmless: values that ask for nothing, beside null.
    """

    what: str
    harmless: tuple[Any, ...] = (False, "", [], {})

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Null in the API's description; what asks for something is an error."""
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def _check(self, value: Any) -> None:
        if value is not None and value not in self.harmless:
            raise unsupported(f"{self.what} not served here")


def unsupported(message: str) -> PydanticCustomError:
    """A value that others take and this server does not."""
    # Their messages are templates, in which a brace would have to be the name of something.
    return PydanticCustomError(UNSUPPORTED, "{message}", {"message": message})


def _require_utf8(text: str) -> str:
    # JSON can spell half a character, which no text that is sent or hashed may have.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "utf8", "half a character at position {position}", {"position": error.start}
        ) from None
    return text


Text = Annotated[str, AfterValidator(_require_utf8)]


def _require_plain_json(values: dict[str, Any]) -> dict[str, Any]:
    # Python reads more than other programs can be given: NaN, integers of any size, any depth.
    level: list[Any] = [values]
    for _ in range(_DEEPEST):
        level = [part for value in level for part in _parts_of(value)]
        if not level:
            return values
    raise PydanticCustomError("depth", "more than {deepest} deep", {"deepest": _DEEPEST})


def _parts_of(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, list):
        return value
    if isinstance(value, str):
        _require_utf8(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("number", "a number that is not finite")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise PydanticCustomError("number", "a number that is too large")
    return []


JsonObject = Annotated[dict[str, Any], AfterValidator(_require_plain_json)]
"""Any JSON that other programs can be given."""


class TextPart(Model):
    """A part of a message."""

    type: Literal["text"]
    text: Text


def _as_parts(content: Any) -> Any:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise PydanticCustomError("content", "content is a text or a list of parts")
    return [_as_text_part(part) for part in content]


def _as_text_part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind == "text":
        return part
    if kind == "refusal":  # what an assistant said instead
        return {"type": "text", "text": part.get("refusal")}
    raise unsupported(f"a part of the type {kind!r:.40}: this model reads text only")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_prompts(prompt: Any) -> Any:
    if isinstance(prompt, str) or _is_ids(prompt):
        return [prompt]
    if isinstance(prompt, list) and all(isinstance(one, str) or _is_ids(one) for one in prompt):
        return prompt
    raise PydanticCustomError("prompt", "a prompt is a text or a list of token ids, or several")


def _is_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(one) is int and 0 <= one < _NUM_IDS for one in value)
    )


TokenId = Annotated[int, Field(ge=0, lt=_NUM_IDS)]

StopString = Annotated[Text, Field(min_length=1, max_length=256)]

StopStrings = Annotated[
    list[StopString],
    BeforeValidator(_as_list, json_schema_input_type=StopString | list[StopString]),
]
"""One string, or several."""

Count = Annotated[int, Field(ge=1, le=_LARGEST)]

Seed = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]

Penalty = Annotated[float, Field(ge=-2, le=2)]

Parts = Annotated[
    list[TextPart],
    BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart] | None),
]
"""A message's content."""

Prompts = Annotated[
    list[Text | list[int]],
    BeforeValidator(
        _as_prompts,
        json_schema_input_type=str | list[TokenId] | list[str] | list[list[TokenId]],
    ),
    Field(min_length=1, max_length=8),
]
"""One text or list of token ids, or several."""
