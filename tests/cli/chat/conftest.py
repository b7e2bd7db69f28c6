"""A chat on the real model, and a screen that remembers what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.cli.chat.conversation import Conversation
from tests.support.screens import SETTINGS, FakeScreen


@pytest.fixture(scope="module")
def pipeline(needle_f32_dir: Path) -> LLMPipeline:
    # Exact: an answer to a history that was read anew equals one to a history that was cached.
    config = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24, pool_size=2048)
    return LLMPipeline(needle_f32_dir, kv_cache_config=config, INFERENCE_PRECISION_HINT="f32")


@pytest.fixture
def screen(pipeline: LLMPipeline) -> FakeScreen:
    return FakeScreen(Conversation(pipeline, SETTINGS))
