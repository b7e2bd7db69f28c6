"""openvino_genai's arguments, read as ours, so that a program only changes its import."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from openvino_genai import AggregationMode, Tokenizer

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, UnsupportedError
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE

if TYPE_CHECKING:
    from openvino_genai import CacheEvictionConfig, SchedulerConfig

# openvino_genai counts its KVCrush budget and its pool in blocks, which are the plugin's pages.
_BLOCK = PAGE_SIZE


def read_positional(
    args: tuple[Any, ...],
    tokenizer: Tokenizer | None,
    device: str | None,
    config: Mapping[str, Any] | None,
) -> tuple[Tokenizer | None, str | None, Mapping[str, Any] | None]:
    """openvino_genai's two orders: (tokenizer, device, config) and (device, config)."""
    rest = list(args)
    if rest and isinstance(rest[0], Tokenizer):
        tokenizer = rest.pop(0)
    if rest and isinstance(rest[0], str):
        device = rest.pop(0)
    if rest and isinstance(rest[0], Mapping):
        config = rest.pop(0)
    if rest:
        raise ConfigError(
            f"LLMPipeline does not take {type(rest[0]).__name__} {rest[0]!r} there",
            "Positional arguments: models_path, [tokenizer], device, config.",
        )
    return tokenizer, device, config


def read_scheduler_config(
    scheduler: SchedulerConfig, config: KVCacheConfig
) -> tuple[KVCacheConfig, EngineLimits]:
    """``config`` with what ``scheduler`` asks for, and the engine's limits.

    The total stays the total: openvino_genai's KVCrush blocks, which it holds on top of its
    ``max_cache_size``, become representatives within ours.

    Raises:
        UnsupportedError: a setting this engine has no counterpart for.
    """
    if scheduler.use_sparse_attention:
        raise UnsupportedError(
            "use_sparse_attention is not served by this engine",
            "Leave it off, or use the genai engine (engine='genai').",
        )
    limits = EngineLimits(
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
        max_num_seqs=scheduler.max_num_seqs,
        pool_bytes=scheduler.cache_size * 2**30,
    )
    changes: dict[str, Any] = {"prefix_caching": scheduler.enable_prefix_caching}
    if scheduler.num_kv_blocks:
        changes["pool_size"] = scheduler.num_kv_blocks * _BLOCK
    if scheduler.use_cache_eviction:
        changes |= _eviction(scheduler.cache_eviction_config)
    return dataclasses.replace(config, **changes), limits


def _eviction(eviction: CacheEvictionConfig) -> dict[str, Any]:
    if eviction.aggregation_mode == AggregationMode.ADAPTIVE_RKV:
        raise UnsupportedError(
            "AggregationMode.ADAPTIVE_RKV is not served by this engine",
            "Use AggregationMode.SUM or NORM_SUM, or the genai engine (engine='genai').",
        )
    if eviction.apply_rotation:
        raise UnsupportedError(
            "apply_rotation is not served: keys keep the positions they were computed at",
            "Leave apply_rotation off.",
        )
    crush = eviction.kvcrush_config
    representatives = crush.budget * _BLOCK
    start, recent = eviction.get_start_size(), eviction.get_recent_size()
    total = eviction.get_max_cache_size() + representatives
    changes: dict[str, Any] = {
        "max_cache_size": total,
        "start_size": start,
        "recent_size": recent,
        "importance": "snapkv",
        "representatives": "rank" if representatives else "none",
        "representative_share": representatives / (total - start - recent),
        "anchor": crush.anchor_point_mode.name.lower().replace("alternating", "alternate"),
        "seed": crush.rng_seed,
    }
    # A window of 0 turns SnapKV off there; ours then takes its own default.
    if eviction.snapkv_window_size:
        changes["window_size"] = min(eviction.snapkv_window_size, recent)
    return changes
