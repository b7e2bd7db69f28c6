"""The form of an answer, as a request asks for it and as the grammar it becomes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ov_kvcrush.runtime.grammar.grammar import Grammar
from ov_kvcrush.serve.fields import Model, Text, unsupported

FormatKind = Literal["text", "json_object", "json_schema"]

SchemaName = Annotated[Text, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class NamedSchema(Model):
    """A JSON Schema. It binds the answer whatever ``strict`` says."""

    name: SchemaName
    description: Text | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Model):
    """OpenAI's way to ask for a form."""

    type: FormatKind
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _require_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise PydanticCustomError("schema", "json_schema is missing, which says the form")
        return self

    def to_grammar(self) -> Grammar | None:
        """What binds the answer; None where any text will do.

        Raises:
            GrammarError: the schema is too large, or not JSON.
        """
        if self.type == "text":
            return None
        if self.json_schema is None:
            return Grammar.json_object()
        return Grammar.json_schema(self.json_schema.schema_)


class StructuredOutputs(Model):
    """vLLM's way to ask for a form, by one of these."""

    json_: Annotated[dict[str, Any] | Text | None, Field(alias="json")] = None
    regex: Text | None = None
    choice: Annotated[list[Text], Field(min_length=1, max_length=1024)] | None = None
    grammar: Text | None = None
    json_object: bool | None = None

    @model_validator(mode="after")
    def _require_one(self) -> StructuredOutputs:
        named = self.json_, self.regex, self.choice, self.grammar, self.json_object or None
        if sum(one is not None for one in named) != 1:
            raise PydanticCustomError(
                "structure", "takes one of json, regex, choice, grammar and json_object"
            )
        return self

    def to_grammar(self) -> Grammar:
        """What binds the answer.

        Raises:
            GrammarError: it is too large, or not JSON.
        """
        if self.json_ is not None:
            return Grammar.json_schema(self.json_)
        if self.regex is not None:
            return Grammar.regex(self.regex)
        if self.choice is not None:
            return Grammar.choice(self.choice)
        if self.grammar is not None:
            return Grammar.lark(self.grammar)
        return Grammar.json_object()


def known_format(value: Any) -> Any:
    """``value``, a form as a request says it; one of a kind that is not served is refused so."""
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind not in get_args(FormatKind):
        raise unsupported(f"answers of the format {kind!r:.40} are not served here")
    return value


AnswerFormat = Annotated[
    ResponseFormat, BeforeValidator(known_format, json_schema_input_type=ResponseFormat)
]
