"""Our settings as openvino_genai takes them, refused early where they cannot be obeyed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openvino_genai import GenerationConfig, SchedulerConfig

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, UnsupportedError
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.precisions import LayerPrecision, require_precision_pair
from ov_kvcrush.runtime.genai.eviction import GenaiEviction
from ov_kvcrush.runtime.generation.drafter import require_drafts
from ov_kvcrush.runtime.generation.settings import copy_of
from ov_kvcrush.runtime.grammar.grammar import GrammarKind
from ov_kvcrush.runtime.grammar.grammar_builder import require_readable
from ov_kvcrush.runtime.grammar.structured_output import grammar_in_text
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.plugin.properties import VALUE_GROUP_SIZE

_GPU_PAGE_SIZE = 16
_GIB = 2**30
_LONGEST_MATCH = 3  # openvino_genai's examples have it


def page_size_of(device: str) -> int:
    """Tokens of a page: the CPU's is pinned by a test, the GPU's is what openvino_genai sets."""
    return _GPU_PAGE_SIZE if device.startswith("GPU") else PAGE_SIZE


def scheduler_config(
    config: KVCacheConfig,
    eviction: GenaiEviction | None,
    page_size: int,
    limits: EngineLimits,
) -> SchedulerConfig:
    """How much may be done at once and held, and what is evicted.

    Raises:
        ConfigError: ``limits.pool_bytes`` counts and is not in whole GiB.
    """
    scheduler = SchedulerConfig()
    scheduler.max_num_batched_tokens = limits.max_num_batched_tokens
    scheduler.max_num_seqs = limits.max_num_seqs
    if config.pool_size is not None:
        scheduler.num_kv_blocks = -(-config.pool_size // page_size)
    elif limits.pool_bytes % _GIB:
        raise ConfigError(
            f"a pool of {limits.pool_bytes:,} bytes: openvino_genai counts its pool in whole GiB",
            "Give pool_size, which counts tokens.",
        )
    else:
        scheduler.cache_size = limits.pool_bytes // _GIB
    # With eviction on, openvino_genai's prefix caching loses pages and ends in a crash.
    scheduler.enable_prefix_caching = eviction is None
    if eviction is not None:
        scheduler.use_cache_eviction = True
        scheduler.cache_eviction_config = eviction.to_genai()
    return scheduler


def config_with_drafts(config: GenerationConfig, most: int) -> GenerationConfig:
    """``config`` for openvino_genai's prompt lookup, which has to be told how much it guesses.

    Args:
        config: resolved settings; its own numbers go first.
        most: tokens of a draft; 0 where prompt lookup is off, and nothing changes.

    Raises:
        UnsupportedError: it asks for several answers, or for drafts where there are none.
    """
    require_drafts(config, most)
    if not most:
        return config
    if config.num_return_sequences > 1:
        raise UnsupportedError(
            "openvino_genai's prompt lookup gives one answer, and num_return_sequences is "
            f"{config.num_return_sequences}",
            "Leave prompt_lookup out, or use the paged engine (engine='paged').",
        )
    drafting = copy_of(config)
    drafting.num_assistant_tokens = config.num_assistant_tokens or most
    drafting.max_ngram_size = config.max_ngram_size or _LONGEST_MATCH
    return drafting


def plugin_properties(
    properties: Mapping[str, Any], config: KVCacheConfig, plan: KVPlan | None
) -> dict[str, Any]:
    """``properties`` and the KV precision ``config`` asks for; what it leaves open the IR says.

    Raises:
        ConfigError: a pair of precisions that paged attention does not take, or a plan with several
            of which ``config`` chooses none.
    """
    properties = dict(properties)
    key, value = config.key_cache_precision, config.value_cache_precision
    if key is not None and value is not None:
        require_precision_pair(key, value)
    if key is not None:
        properties["KEY_CACHE_PRECISION"] = key
    if value is not None:
        properties["VALUE_CACHE_PRECISION"] = value
    if plan and len(set(plan.precisions)) > 1 and (key is None or value is None):
        raise ConfigError(
            "openvino_genai stores the KV cache of all layers alike, and the model's KV plan has "
            "several precisions",
            "Give key_cache_precision and value_cache_precision, or use the paged engine.",
        )
    planned = plan.precisions[0] if plan else None
    if "f32" in (key or (planned and planned.key), value or (planned and planned.value)):
        # The plugin stores f32 only where it computes in f32, and the IR cannot ask for that.
        properties.setdefault("INFERENCE_PRECISION_HINT", "f32")
    return properties


def stored_precision(plan: KVPlan | None, properties: Mapping[str, Any]) -> LayerPrecision | None:
    """What the cache is stored in, where ``properties`` and ``plan`` tell both parts."""
    planned = plan.precisions[0] if plan else None
    key = properties.get("KEY_CACHE_PRECISION", planned.key if planned else None)
    value = properties.get("VALUE_CACHE_PRECISION", planned.value if planned else None)
    if "KV_CACHE_PRECISION" in properties or key is None or value is None:
        return None
    group = properties.get(VALUE_GROUP_SIZE, planned.value_group_size if planned else 0)
    return LayerPrecision(str(key), str(value), value_group_size=group)


def require_fixed_pool(scheduler: SchedulerConfig, precision: LayerPrecision | None) -> None:
    """Refuse u4 in a pool that grows: openvino_genai 2026.4.1 writes past the end of it.

    Raises:
        ConfigError: as said; the process would die of a damaged heap some requests later.
    """
    grows = not scheduler.num_kv_blocks and not scheduler.cache_size
    if grows and precision is not None and "u4" in (precision.key, precision.value):
        raise ConfigError(
            "openvino_genai damages its memory when a KV cache in u4 grows",
            "Give pool_size, for all tokens that will be held at a time, or use the paged engine.",
        )


def require_known_structure(config: GenerationConfig) -> None:
    """Refuse a grammar that openvino_genai would not understand.

    It would say so in a step only, which then fails for all that run: what llguidance cannot read
    is refused before. Tags are not looked into.

    Raises:
        GrammarError: as said.
        UnsupportedError: it is not in EBNF.
    """
    structured = config.structured_output_config
    grammar = None if structured is None else grammar_in_text(structured)
    if grammar is None:
        return
    if grammar.kind == GrammarKind.GRAMMAR and "::=" not in grammar.text:
        raise UnsupportedError(
            "openvino_genai takes grammars in EBNF, and this one is not",
            "Write rules as in: root ::= ..., or use the paged engine (engine='paged').",
        )
    require_readable(grammar)
