"""What both sides of a benchmark are given: prompts, budgets, and what they compile with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from harness.contestants import Run
from harness.models import TOKENIZER_VOCAB
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE

PROMPT, BUDGET = 4096, 1024
PRECISION = "u8"
# openvino_genai's total, and what its eviction knows of ours.
THEIRS = KVCacheConfig(
    max_cache_size=BUDGET,
    granularity="page",
    representatives="rank",
    key_cache_precision=PRECISION,
    value_cache_precision=PRECISION,
    pool_size=PROMPT + 512,  # a whole prompt: openvino_genai evicts nothing before it has read it
)
# Its cache grows by a page past the total before it is cut, ours by the slack; so ours is cut to
# less: neither ever holds more than the other may.
DEFAULT = KVCacheConfig()
OURS = replace(
    THEIRS,
    max_cache_size=BUDGET + PAGE_SIZE - DEFAULT.decode_slack,
    granularity=DEFAULT.granularity,
    representatives=DEFAULT.representatives,
    prefix_caching=False,  # the same prompt may come again
)
FULL = replace(OURS, max_cache_size=0)


def tokens(count: int, seed: int) -> list[int]:
    """Token ids, the same for the same arguments; other seeds share no beginning."""
    ids: list[int] = np.random.default_rng(seed).integers(10, TOKENIZER_VOCAB, count).tolist()
    return ids


def plugin_properties(threads: int, inference_precision: str | None = None) -> dict[str, Any]:
    """What both sides compile with."""
    properties: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "KEY_CACHE_PRECISION": PRECISION,
        "VALUE_CACHE_PRECISION": PRECISION,
    }
    if inference_precision:
        properties["INFERENCE_PRECISION_HINT"] = inference_precision
    return properties


def warm_up(prompt: int, *sides: Callable[[list[int], int], Run]) -> None:
    """Let every side run once: the first prompt of a length also pays for the plugin's buffers."""
    for generate in sides:
        generate(tokens(prompt, 999), 4)
