"""The model's template as a test wants it, and as it was afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import openai
import pytest

from ov_kvcrush import LLMPipeline
from tests.support.server import RunningServer
from tests.support.tool_styles import LLAMA_LIKE_TEMPLATE, QWEN_LIKE_TEMPLATE

TEMPLATES = {"qwen": QWEN_LIKE_TEMPLATE, "llama": LLAMA_LIKE_TEMPLATE, "polyfilled": None}


@pytest.fixture
def template(pipeline: LLMPipeline) -> Iterator[Callable[[str | None], None]]:
    """Gives the model another chat template; None is its own, which does not know tools."""
    tokenizer = pipeline.get_tokenizer()
    own = tokenizer.chat_template

    def use(source: str | None) -> None:
        tokenizer.set_chat_template(own if source is None else source)

    yield use
    tokenizer.set_chat_template(own)


@pytest.fixture(params=TEMPLATES)
def style(request: pytest.FixtureRequest, template: Callable[[str | None], None]) -> str:
    """Each of the styles that calls are served in, by name."""
    name: str = request.param
    template(TEMPLATES[name])
    return name


@pytest.fixture
def qwen_like(template: Callable[[str | None], None]) -> None:
    """A style that marks calls, which may follow a text and one another."""
    template(QWEN_LIKE_TEMPLATE)


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client
