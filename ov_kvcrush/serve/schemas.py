"""Requests as OpenAI's and vLLM's clients send them."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ov_kvcrush.serve.answer_format import AnswerFormat, StructuredOutputs
from ov_kvcrush.serve.fields import (
    Count,
    JsonObject,
    Model,
    Parts,
    Penalty,
    Prompts,
    Refused,
    Seed,
    StopStrings,
    Text,
    TokenId,
)
from ov_kvcrush.serve.tools.fields import Choice, FunctionDefinition, Tools

_LOGGER = logging.getLogger(__name__)

_GRAMMAR = Refused("answers of a form that is not in response_format are")


class Function(Model):
    """What a tool was called with; ``arguments`` is JSON, as the model wrote it."""

    name: Text
    arguments: Text = ""


class ToolCall(Model):
    """A call in an assistant's message."""

    id: Text = ""
    type: Literal["function"] = "function"
    function: Function


class Message(Model):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Parts = Field(default_factory=list)
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Text | None = None
    name: Text | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    audio: Annotated[None, Refused("spoken messages are")] = None
    function_call: Annotated[None, Refused("functions are", ())] = None

    @property
    def text(self) -> str:
        """Its parts, one under the other."""
        return "\n".join(part.text for part in self.content)


class StreamOptions(Model):
    """What a stream has beside its pieces."""

    include_usage: bool | None = None


class GenerationRequest(Model):
    """What chats and completions may ask for. A field that is null is one that is not given."""

    model: Text
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    seed: Seed | None = None
    stop: StopStrings | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    session_id: Annotated[Text, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[Text, Field(max_length=512)] | None = None

    best_of: Annotated[None, Refused("the best of several answers is", (1,))] = None
    grammar: Annotated[None, _GRAMMAR] = None
    guided_choice: Annotated[None, _GRAMMAR] = None
    guided_grammar: Annotated[None, _GRAMMAR] = None
    guided_json: Annotated[None, _GRAMMAR] = None
    guided_regex: Annotated[None, _GRAMMAR] = None
    json_schema: Annotated[None, _GRAMMAR] = None
    logit_bias: Annotated[None, Refused("a bias of single tokens is")] = None
    prompt_logprobs: Annotated[None, Refused("log probabilities of prompts are", ())] = None
    response_format: AnswerFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    use_beam_search: Annotated[None, Refused("beam search is")] = None

    @model_validator(mode="before")
    @classmethod
    def _note_unknown(cls, fields: Any) -> Any:
        if _LOGGER.isEnabledFor(logging.DEBUG) and isinstance(fields, dict):
            unknown = sorted(set(fields) - set(cls.model_fields))
            if unknown:
                _LOGGER.debug("%d fields are ignored: %.200r", len(unknown), unknown)
        return fields

    @property
    def num_choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def token_limit(self) -> int | None:
        """Tokens an answer may have, where the request says it."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def session_key(self) -> str:
        """The conversation it belongs to, where the body says it; else empty."""
        return self.session_id or self.prompt_cache_key or ""

    @property
    def num_prompts(self) -> int:
        """Prompts that are answered one beside the other."""
        return 1

    @property
    def num_top(self) -> int | None:
        """Tokens to be told in place of each; None where no log probabilities are wanted."""
        raise NotImplementedError


class ChatRequest(GenerationRequest):
    """Of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    chat_template_kwargs: JsonObject | None = None
    reasoning_effort: Annotated[Text, Field(max_length=32)] | None = None
    prefix: Annotated[Text, Field(max_length=512)] | None = None
    tools: Tools | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None

    audio: Annotated[None, Refused("spoken answers are")] = None
    continue_final_message: Annotated[None, Refused("going on with a last message is")] = None
    function_call: Annotated[None, Refused("functions are", ("none", "auto"))] = None
    functions: Annotated[None, Refused("functions are")] = None
    modalities: Annotated[None, Refused("answers other than text are", ([], ["text"]))] = None
    web_search_options: Annotated[None, Refused("searching the web is", ())] = None

    @property
    def num_top(self) -> int | None:
        """Tokens to be told in place of each; None where no log probabilities are wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def tool_functions(self) -> list[FunctionDefinition]:
        """What its answer may call."""
        return [tool.function for tool in self.tools or []]


class CompletionRequest(GenerationRequest):
    """Of ``/v1/completions``: texts or token ids, which are continued as they are."""

    prompt: Prompts
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    echo: Annotated[None, Refused("repeating the prompt is")] = None
    suffix: Annotated[None, Refused("filling in before a suffix is")] = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each is answered for itself."""
        return self.prompt

    @property
    def num_prompts(self) -> int:
        """Prompts that are answered one beside the other."""
        return len(self.prompt)

    @property
    def num_top(self) -> int | None:
        """Tokens to be told in place of each; None where no log probabilities are wanted."""
        return self.logprobs


class TokenizeRequest(Model):
    """Of ``/tokenize``: a conversation through the chat template, or a text as it is."""

    model: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    prompt: Text | None = None
    add_generation_prompt: bool = True
    add_special_tokens: bool = True
    chat_template_kwargs: JsonObject | None = None
    reasoning_effort: Annotated[Text, Field(max_length=32)] | None = None
    tools: Tools | None = None

    @property
    def tool_functions(self) -> list[FunctionDefinition]:
        """What an answer might call."""
        return [tool.function for tool in self.tools or []]


class DetokenizeRequest(Model):
    """Of ``/detokenize``."""

    model: Text | None = None
    tokens: list[TokenId]


class PrefixRequest(Model):
    """Of ``/v1/prefixes``: a text that many requests will begin with."""

    text: Annotated[Text, Field(min_length=1)]
    system_message: Text = ""
    thorough: bool = False


class ErrorDetails(Model):
    """What is wrong, as :class:`ov_kvcrush.serve.errors.ApiError` says it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Model):
    """The body of every reply that is not what was asked for."""

    error: ErrorDetails
