"""Engines with settings of a test's own, prompts and generation settings for them, and their run.

What a test does not ask for is the product's default; a file whose tests share more than that says
so once, with ``functools.partial``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from openvino_genai import GenerationConfig, Tokenizer

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.interface import Engine, EngineLimits
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.sequence import Sequence

F32 = {"INFERENCE_PRECISION_HINT": "f32"}
"""Plugin properties for answers that do not depend on what else is in a batch."""

EXACT: dict[str, Any] = {"key_cache_precision": "f32", "value_cache_precision": "f32"}
"""Settings of a cache that loses nothing."""

EVICTING: dict[str, Any] = {
    "max_cache_size": 96,
    "start_size": 8,
    "recent_size": 24,
    "decode_slack": 16,
}
"""A budget of three pages, which prompts of 100 tokens and more outgrow."""

TOKEN: dict[str, Any] = {"max_cache_size": 100, "start_size": 10, "recent_size": 30}
PAGE: dict[str, Any] = {
    "max_cache_size": 160,
    "start_size": 32,
    "recent_size": 32,
    "granularity": "page",
}
"""A budget of each granularity for a prompt of 400 tokens, in sizes that are easily told apart."""

GENAI_EVICTING = KVCacheConfig(
    max_cache_size=256,
    start_size=32,
    recent_size=64,
    granularity="page",
    representatives="rank",
    representative_share=0.4,
    pool_size=2048,
)
"""A budget that openvino_genai's eviction can keep to."""


def engine_of(
    folder: Path | str,
    /,
    *,
    properties: Mapping[str, Any] | None = None,
    max_num_batched_tokens: int = EngineLimits.max_num_batched_tokens,
    max_num_seqs: int = EngineLimits.max_num_seqs,
    prompt_lookup: int = 0,
    **settings: Any,
) -> PagedEngine:
    """The paged engine on the model in ``folder``; ``settings`` are its ``KVCacheConfig``'s."""
    return PagedEngine(
        folder,
        Tokenizer(folder),
        config=KVCacheConfig(**settings),
        properties=properties,
        limits=EngineLimits(max_num_batched_tokens, max_num_seqs, prompt_lookup=prompt_lookup),
    )


bare_engine = partial(engine_of, max_num_batched_tokens=128, pool_size=4096, prefix_caching=False)
"""It keeps nothing unasked: what it holds is what its requests and sessions hold."""


def prompt_of(length: int, seed: int = 0) -> list[int]:
    """So many random tokens, none of them special; the same for the same ``seed``."""
    tokens: list[int] = np.random.default_rng(seed).integers(8, 5000, length).tolist()
    return tokens


def greedy(count: int, **settings: Any) -> GenerationConfig:
    """Just ``count`` tokens, the likeliest ones unless ``settings`` say otherwise."""
    return GenerationConfig(max_new_tokens=count, ignore_eos=True, **settings)


def finish(engine: Engine, *requests: Request) -> list[list[int]]:
    """Step until ``requests`` have ended, no page lost on the way; the tokens of each sequence."""
    while not all(request.finished for request in requests):
        engine.step()
        engine.check_integrity()
    return [g.tokens for request in requests for g in request.generations]


def read_prompt(engine: PagedEngine, prompt: list[int]) -> Sequence:
    """The sequence of ``prompt`` right after its first token, so after the cut at its end."""
    request = engine.add_request(prompt, greedy(4))
    sequence = sequence_of(request)
    while not request.generations[0].tokens:
        engine.step()
        engine.check_integrity()
    return sequence


def sequence_of(request: Request) -> Sequence:
    """The tokens and cache of a request's first answer."""
    sequence = request.generations[0].sequence
    assert sequence is not None
    return sequence


def assert_nothing_held(engine: PagedEngine) -> None:
    """But for the prefixes that are kept for others."""
    engine.prefixes.clear()
    engine.check_integrity()
    assert engine.cache.used_bytes == 0
