"""The sides of a benchmark: our engine and openvino_genai's pipelines, timed by one definition.

Both get token ids and give tokens, greedily and past any end-of-sequence token. Time to first token
runs from the call until the first token is known; time per token is the mean of those behind it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino_genai import (
    ContinuousBatchingPipeline,
    GenerationConfig,
    LLMPipeline,
    PerfMetrics,
    SchedulerConfig,
    Tokenizer,
)

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.genai.eviction import GenaiEviction
from ov_kvcrush.runtime.interface import DEFAULT_LIMITS, EngineLimits
from ov_kvcrush.runtime.model.paged_graph import read_geometry
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, page_bytes, pages_for
from ov_kvcrush.runtime.sequences.session import Session


@dataclass(frozen=True)
class Run:
    """One generation.

    Attributes:
        tokens: what was generated.
        ttft: seconds to the first token.
        tpot: seconds per token after the first.
        kv_bytes: KV cache held at the end; 0 where the side does not tell.
        kv_bytes_peak: the most it ever held; likewise.
        compression_share: part of the whole time spent selecting and moving tokens.
    """

    tokens: list[int]
    ttft: float
    tpot: float
    kv_bytes: int = 0
    kv_bytes_peak: int = 0
    compression_share: float = 0.0


class Ours:
    """ov-kvcrush's paged engine.

    Args:
        folder: exported model.
        config: what the KV cache may hold; its ``pool_size`` has to hold a whole prompt and answer.
        properties: passed to the plugin.
        limits: the engine's.
    """

    def __init__(
        self,
        folder: Path,
        config: KVCacheConfig,
        properties: Mapping[str, Any],
        limits: EngineLimits = DEFAULT_LIMITS,
    ) -> None:
        self.engine = PagedEngine(
            folder, Tokenizer(folder), config=config, properties=properties, limits=limits
        )

    def generate(self, prompt: Sequence[int], count: int, session: Session | None = None) -> Run:
        """Generate ``count`` tokens, going on from the cache of ``session`` if it is given."""
        begun = time.perf_counter()
        request = self.engine.add_request(prompt, greedy(count), session)
        while not request.finished:
            self.engine.step()
        (generation,) = request.generations
        metrics = generation.metrics
        return Run(
            tokens=list(generation.tokens),
            ttft=metrics.token_times[0] - begun,
            tpot=metrics.tpot,
            kv_bytes=metrics.kv_bytes,
            kv_bytes_peak=metrics.kv_bytes_peak,
            compression_share=metrics.compression_time / (metrics.token_times[-1] - begun),
        )


class Genai:
    """openvino_genai's LLMPipeline as its users make it: nothing set but device and precision."""

    def __init__(self, folder: Path, properties: Mapping[str, Any]) -> None:
        self._pipeline = LLMPipeline(folder, "CPU", **properties)

    def generate(self, prompt: Sequence[int], count: int) -> Run:
        """Generate ``count`` tokens; its own prefix caching may know the prompt's beginning."""
        result = self._pipeline.generate(prompt_tensor(prompt), greedy(count))
        return Run(result.tokens[0], *_times(result.perf_metrics, count))


class EvictingGenai:
    """openvino_genai's ContinuousBatchingPipeline with its own eviction and KVCrush.

    Prompts are prefilled in one chunk, as LLMPipeline does, and the pool is allocated beforehand.

    Args:
        folder: exported model.
        config: as for :class:`Ours`; its KV precisions are to be set.
        properties: passed to the plugin.
    """

    def __init__(self, folder: Path, config: KVCacheConfig, properties: Mapping[str, Any]) -> None:
        pool_size = config.pool_size or config.max_cache_size
        self._eviction = GenaiEviction.of(config, PAGE_SIZE)
        precision = LayerPrecision(
            str(config.key_cache_precision), str(config.value_cache_precision)
        )
        layers = read_geometry(folder)
        self._page_bytes = page_bytes(layers, [precision] * len(layers))
        scheduler = SchedulerConfig()
        scheduler.max_num_batched_tokens = pool_size
        scheduler.num_kv_blocks = pages_for(pool_size)
        scheduler.use_cache_eviction = True
        scheduler.cache_eviction_config = self._eviction.to_genai()
        self._pipeline = ContinuousBatchingPipeline(
            folder, Tokenizer(folder), scheduler, "CPU", **properties
        )

    def generate(self, prompt: Sequence[int], count: int) -> Run:
        """Generate ``count`` tokens; the whole prompt is prefilled."""
        (result,) = self._pipeline.generate([prompt_tensor(prompt)], [greedy(count)])
        held = len(prompt)
        for _ in range(count - 1):
            held = self._eviction.kept(held + 1)
        return Run(
            result.m_generation_ids[0],
            *_times(result.perf_metrics, count),
            kv_bytes=self._bytes_for(held),
            kv_bytes_peak=self._bytes_for(len(prompt)),  # nothing is evicted while it is read
        )

    def _bytes_for(self, num_tokens: int) -> int:
        return pages_for(num_tokens) * self._page_bytes


def greedy(count: int) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=count, ignore_eos=True)


def prompt_tensor(prompt: Sequence[int]) -> ov.Tensor:
    return ov.Tensor(np.array([prompt], np.int64))


def _times(metrics: PerfMetrics, count: int) -> tuple[float, float]:
    """Seconds to the first token and per token behind it, from openvino_genai's own clock."""
    tpot = metrics.get_tpot().mean / 1e3 if count > 1 else 0.0
    return metrics.get_ttft().mean / 1e3, tpot
