"""A chat template in Python's Jinja, for those that openvino_genai's does not understand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ov_kvcrush.errors import ModelError, TemplateError
from ov_kvcrush.pipeline.messages import TemplateRefusalError

_HINT = (
    "Mend it in the model that was exported and export that again, or give another to the "
    "tokenizer's set_chat_template."
)


class JinjaTemplate:
    """Renders with what transformers gives to chat templates, in a sandbox.

    Args:
        source: the template.

    Raises:
        ModelError: it is not a template.
    """

    def __init__(self, source: str) -> None:
        environment = _environment()
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(
                f"the model's chat template cannot be read: {error.message} (line {error.lineno})",
                _HINT,
            ) from error

    def render(self, variables: Mapping[str, Any]) -> str:
        """The prompt.

        Raises:
            TemplateRefusalError: the template refuses it.
            TemplateError: the template fails.
        """
        try:
            return self._template.render(variables)
        except TemplateRefusalError:
            raise
        except Exception as error:  # whatever a template can do wrong
            reason = " ".join(str(error).split()) or type(error).__name__
            raise TemplateError(
                f"the model's chat template does not render this conversation: {reason}", _HINT
            ) from error


def may_divide_by_zero(source: str) -> bool:
    """Whether a divisor in the template ``source`` is not a number that stands there."""
    try:
        tree = _environment().parse(source)
    except jinja2.TemplateSyntaxError:
        return False  # it divides nothing
    divisions = tree.find_all((nodes.Div, nodes.FloorDiv, nodes.Mod))
    return any(not _is_number(division.right) for division in divisions)


def _is_number(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, int | float) and node.value != 0


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )


class _Generation(Extension):
    """``{% generation %}``, with which templates mark answers for training: its body counts."""

    tags = {"generation"}  # noqa: RUF012  as Jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements up to ``{% endgeneration %}``."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(sentence: object) -> NoReturn:
    raise TemplateRefusalError(str(sentence))


def _to_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    # Jinja2's own escapes HTML, which no model has been trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)
