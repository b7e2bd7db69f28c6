"""Our pipeline, openvino_genai's on the same model, and one of ours that evicts."""

from __future__ import annotations

from pathlib import Path

import openvino_genai as genai
import pytest

from ov_kvcrush import LLMPipeline
from tests.support.engines import F32
from tests.support.pipelines import BUDGET


@pytest.fixture(scope="module")
def ours(needle_f32_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_f32_dir, "CPU", F32)


@pytest.fixture(scope="module")
def theirs(needle_f32_dir: Path) -> genai.LLMPipeline:
    # The precision of the cache is in the IR, f32, for both.
    return genai.LLMPipeline(needle_f32_dir, "CPU", **F32)


@pytest.fixture
def evicting(needle_f32_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_f32_dir, kv_cache_config=BUDGET, INFERENCE_PRECISION_HINT="f32")
