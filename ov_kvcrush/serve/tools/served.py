"""What a server knows of its model's tools: how calls are spelled, whatever template it has now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openvino_genai import ChatHistory

from ov_kvcrush.serve.settings import ServeSettings
from ov_kvcrush.serve.tools.fields import FunctionDefinition, ToolChoice
from ov_kvcrush.serve.tools.style import ToolStyle, find_tool_style
from ov_kvcrush.serve.tools.use import ToolUse, require_limits

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline


class ServedTools:
    """The tools of one server's requests; for its event loop.

    Args:
        pipeline: answers.
        settings: of the server.
    """

    def __init__(self, pipeline: AsyncLLMPipeline, settings: ServeSettings) -> None:
        self._pipeline = pipeline
        self._settings = settings
        # openvino_genai's engine takes grammars in another language.
        self._has_grammars = pipeline.describe().engine == "paged"
        self._template = ""
        self._style: ToolStyle | None = None
        self._tokens: Mapping[str, int] = {}

    @property
    def style(self) -> ToolStyle | None:
        """How calls are spelled; None where that is not known. Some milliseconds the first time."""
        template = str(self._pipeline.get_tokenizer().chat_template)
        if template != self._template:
            self._template = template
            special = self._pipeline.special_tokens
            self._style = style = find_tool_style(self._render, special.special)
            marks = "" if style is None else style.marks
            self._tokens = {text: one for text, one in special.markup.items() if text in marks}
        return self._style

    def use(
        self,
        functions: Sequence[FunctionDefinition],
        choice: ToolChoice | None,
        *,
        parallel: bool | None = None,
        has_no_end: bool = False,
    ) -> ToolUse | None:
        """What an answer may call; None without tools.

        Args:
            functions: of a request.
            choice: of those.
            parallel: whether an answer may have several calls.
            has_no_end: the answer goes on where it would end, which no grammar lets it.

        Raises:
            ApiError: 400, with the field that is wrong.
        """
        require_limits(functions, self._settings.max_tools, self._settings.max_tool_bytes)
        return ToolUse.of(
            functions,
            choice or ToolChoice(),
            self.style if functions else None,
            self._tokens,
            at_most_one=parallel is False,
            has_grammars=self._has_grammars and not has_no_end,
        )

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
    ) -> str:
        history = ChatHistory(list(messages))
        history.set_tools(list(tools))
        return self._pipeline.render(history, add_generation_prompt)
