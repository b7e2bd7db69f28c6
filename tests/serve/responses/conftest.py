"""OpenAI's client of the server."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from ov_kvcrush import LLMPipeline
from tests.support.server import RunningServer
from tests.support.tool_styles import QWEN_LIKE_TEMPLATE


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def qwen_like(pipeline: LLMPipeline) -> Iterator[None]:
    """A chat template that marks calls."""
    tokenizer = pipeline.get_tokenizer()
    own = tokenizer.chat_template
    tokenizer.set_chat_template(QWEN_LIKE_TEMPLATE)
    yield
    tokenizer.set_chat_template(own)
