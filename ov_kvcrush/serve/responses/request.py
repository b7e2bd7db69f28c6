"""Requests to ``/v1/responses``, and the chat that each asks for."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ov_kvcrush.serve.answer_format import (
    FormatKind,
    NamedSchema,
    ResponseFormat,
    SchemaName,
    known_format,
)
from ov_kvcrush.serve.fields import Count, JsonObject, Model, Refused, Seed, Text
from ov_kvcrush.serve.responses.items import Items, messages_of
from ov_kvcrush.serve.schemas import ChatRequest
from ov_kvcrush.serve.tools.fields import FlatChoice, FlatTools, FunctionTool

LOG_PROBS = "message.output_text.logprobs"
"""What ``include`` may ask for; what else it names, no answer here has."""


class TextFormat(Model):
    """The form of an answer, flat."""

    type: FormatKind
    name: SchemaName | None = None
    description: Text | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _require_schema(self) -> TextFormat:
        if self.type == "json_schema" and self.schema_ is None:
            raise PydanticCustomError("schema", "schema is missing, which says the form")
        return self

    def to_response_format(self) -> ResponseFormat:
        """As chats have it."""
        if self.type != "json_schema":
            return ResponseFormat(type=self.type)
        fields = {"name": self.name or "answer", "schema": self.schema_ or {}}
        return ResponseFormat(type=self.type, json_schema=NamedSchema.model_validate(fields))


class TextConfig(Model):
    """What is asked of an answer's text."""

    format: (
        Annotated[TextFormat, BeforeValidator(known_format, json_schema_input_type=TextFormat)]
        | None
    ) = None
    verbosity: Text | None = None


class Reasoning(Model):
    """What is asked of a model that reasons."""

    effort: Annotated[Text, Field(max_length=32)] | None = None


class ResponsesRequest(Model):
    """Of ``/v1/responses``. A field that is null is one that is not given."""

    model: Text
    input: Items
    instructions: Text | None = None
    max_output_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: list[Text] | None = None
    stream: bool | None = None
    text: TextConfig | None = None
    tools: FlatTools | None = None
    tool_choice: FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    metadata: JsonObject | None = None
    prompt_cache_key: Annotated[Text, Field(max_length=512)] | None = None
    # Not OpenAI's, but of chats.
    session_id: Annotated[Text, Field(max_length=512)] | None = None
    prefix: Annotated[Text, Field(max_length=512)] | None = None
    seed: Seed | None = None
    chat_template_kwargs: JsonObject | None = None

    background: Annotated[None, Refused("answers that nobody waits for are")] = None
    conversation: Annotated[None, Refused("conversations by id are")] = None
    previous_response_id: Annotated[
        None,
        Refused("responses are not kept, so send all items in input: going on from one is"),
    ] = None
    prompt: Annotated[None, Refused("prompts by id are")] = None
    truncation: Annotated[None, Refused("leaving out what is too long is", ("disabled",))] = None

    @property
    def format(self) -> TextFormat:
        """The form that the answer has."""
        asked = None if self.text is None else self.text.format
        return TextFormat(type="text") if asked is None else asked

    def to_chat(self) -> ChatRequest:
        """The chat request that is answered."""
        has_log_probs = self.top_logprobs is not None or LOG_PROBS in (self.include or [])
        return ChatRequest(
            model=self.model,
            messages=messages_of(self.input, self.instructions),
            max_completion_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            logprobs=has_log_probs,
            top_logprobs=self.top_logprobs if has_log_probs else None,
            stream=self.stream,
            response_format=self.format.to_response_format(),
            tools=[FunctionTool(type="function", function=tool) for tool in self.tools or []],
            tool_choice=self.tool_choice,
            parallel_tool_calls=self.parallel_tool_calls,
            reasoning_effort=None if self.reasoning is None else self.reasoning.effort,
            prompt_cache_key=self.prompt_cache_key,
            session_id=self.session_id,
            prefix=self.prefix,
            seed=self.seed,
            chat_template_kwargs=self.chat_template_kwargs,
        )
