"""openvino_genai's arguments, read as ours, so that a program only changes its import."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import openvino as ov
from openvino_genai import AdapterConfig, AggregationMode, SchedulerConfig, Tokenizer

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, UnsupportedError
from ov_kvcrush.runtime.generation.drafter import DEFAULT_DRAFTS
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.plugin.given_properties import read_switch

if TYPE_CHECKING:
    from openvino_genai import CacheEvictionConfig

# openvino_genai counts its KVCrush budget and its pool in blocks, which are the plugin's pages.
_BLOCK = PAGE_SIZE


def read_positional(
    args: tuple[Any, ...],
    tokenizer: Tokenizer | None,
    device: str | None,
    config: Mapping[str, Any] | None,
) -> tuple[Tokenizer | None, str | None, Mapping[str, Any] | None]:
    """openvino_genai's two orders: (tokenizer, device, config) and (device, config).

    Raises:
        ConfigError: an argument of another kind.
        UnsupportedError: its third order, a model's text and weights, as of an encrypted one.
    """
    rest = list(args)
    if rest and isinstance(rest[0], ov.Tensor):
        raise UnsupportedError(
            "a model given as its text and weights is not served, encrypted ones included",
            "Give the folder of a model, or use openvino_genai's own pipeline.",
        )
    if rest and isinstance(rest[0], Tokenizer):
        tokenizer = rest.pop(0)
    if rest and isinstance(rest[0], str):
        device = rest.pop(0)
    if rest and isinstance(rest[0], Mapping):
        config = rest.pop(0)
    if rest:
        raise ConfigError(
            f"LLMPipeline does not take {_kind(rest[0])} {rest[0]!r} there",
            "Positional arguments: models_path, [tokenizer], device, config.",
        )
    for name, value, kind in (
        ("tokenizer", tokenizer, Tokenizer),
        ("device", device, str),
        ("config", config, Mapping),
    ):
        if value is not None and not isinstance(value, kind):
            raise ConfigError(f"{name} is a {_kind(value)}; it takes a {kind.__name__}")
    return tokenizer, device, config


def plugin_properties(given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` without what openvino_genai's pipelines read themselves and that is off.

    Raises:
        ConfigError: one of those has a value it cannot have.
        UnsupportedError: one of those is on, and asks for what is not served.
    """
    properties = dict(given)
    backend = properties.pop("ATTENTION_BACKEND", "PA")
    if backend == "SDPA":
        raise UnsupportedError(
            "ATTENTION_BACKEND 'SDPA' is not served: every engine here keeps its KV cache in pages",
            "Leave it out or at 'PA', or use openvino_genai's own pipeline.",
        )
    if backend != "PA":
        raise ConfigError(f"ATTENTION_BACKEND {backend!r} is not known", "It takes 'PA'.")
    if properties.pop("draft_model", None) is not None:
        raise _not_served("draft_model", "speculative decoding is")
    adapters = properties.pop("adapters", None)
    is_empty = isinstance(adapters, AdapterConfig) and not adapters.get_adapters()
    if adapters is not None and not is_empty:
        raise _not_served("adapters", "LoRA adapters are")
    return properties


def read_prompt_lookup(given: object) -> int:
    """Tokens of a draft that ``prompt_lookup`` asks for; 0 for none.

    Raises:
        ConfigError: it is neither on, off, nor a number of tokens.
    """
    word = str(given)
    if word.isdecimal():
        return int(word)
    try:
        return DEFAULT_DRAFTS if read_switch("prompt_lookup", given) else 0
    except ConfigError:
        raise ConfigError(
            f"prompt_lookup is {given!r}; it takes True, False, or a number of tokens"
        ) from None


def draft_model(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Refused, before a model is loaded in vain: no engine here decodes speculatively.

    Raises:
        UnsupportedError: always.
    """
    raise _not_served("draft_model", "speculative decoding is")


def _not_served(name: str, feature: str) -> UnsupportedError:
    return UnsupportedError(
        f"{name} is given: {feature} not served",
        f"Leave {name} out, or use openvino_genai's own pipeline.",
    )


def cache_config(given: KVCacheConfig | None) -> KVCacheConfig:
    """``given``, or one that keeps everything.

    Raises:
        ConfigError: it is something else.
    """
    if given is None:
        return KVCacheConfig()
    if not isinstance(given, KVCacheConfig):
        raise ConfigError(
            f"a kv_cache_config is a KVCacheConfig, not a {_kind(given)}",
            "For instance: KVCacheConfig(max_cache_size=1024)",
        )
    return given


def read_scheduler_config(
    scheduler: SchedulerConfig, config: KVCacheConfig
) -> tuple[KVCacheConfig, EngineLimits]:
    """``config`` with what ``scheduler`` asks for, and the engine's limits.

    The total stays the total: openvino_genai's KVCrush blocks, which it holds on top of its
    ``max_cache_size``, become representatives within ours.

    Raises:
        ConfigError: it is something else than a ``SchedulerConfig``.
        UnsupportedError: a setting this engine has no counterpart for.
    """
    if not isinstance(scheduler, SchedulerConfig):
        raise ConfigError(f"a scheduler_config is a SchedulerConfig, not a {_kind(scheduler)}")
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


def _kind(value: Any) -> str:
    return type(value).__name__


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
