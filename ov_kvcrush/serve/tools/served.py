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
        self._found: tuple[str, ToolStyle | None] | None = None

    @property
    def style(self) -> ToolStyle | None:
        """How calls are spelled; None where that is not known. Some milliseconds the first time."""
        template = str(self._pipeline.get_tokenizer().chat_template)
        if self._found is None or self._found[0] != template:
            self._found = template, find_tool_style(self._render)
        return self._found[1]

    def use(
        self,
        functions: Sequence[FunctionDefinition],
        choice: ToolChoice | None,
        parallel: bool | None,
    ) -> ToolUse | None:
        """What an answer may call; None without tools.

        Args:
            functions: of a request.
            choice: of those.
            parallel: whether an answer may have several calls.

        Raises:
            ApiError: 400, with the field that is wrong.
        """
        require_limits(functions, self._settings.max_tools, self._settings.max_tool_bytes)
        return ToolUse.of(
            functions,
            choice or ToolChoice(),
            self.style if functions else None,
            at_most_one=parallel is False,
            has_grammars=True,
        )

    def _render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> str:
        history = ChatHistory(list(messages))
        history.set_tools(list(tools))
        return self._pipeline.render(history, add_generation_prompt=False)
