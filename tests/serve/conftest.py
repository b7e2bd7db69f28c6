"""One model for all servers of a test file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from tests.support.server import RunningServer, serving


@pytest.fixture(scope="module")
def pipeline(needle_int8_dir: Path) -> LLMPipeline:
    config = KVCacheConfig(max_cache_size=256, pool_size=16384)
    return LLMPipeline(
        needle_int8_dir, kv_cache_config=config, max_num_batched_tokens=512, max_num_seqs=16
    )


@pytest.fixture(scope="module")
def server(pipeline: LLMPipeline) -> Iterator[RunningServer]:
    with serving(lambda: pipeline) as running:
        yield running
