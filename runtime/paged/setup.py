"""What an engine starts with: the model compiled for the KV precision wanted, and its page pool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.pages.pool import PagePool
from ov_kvcrush.runtime.sequences.kv_cache import KVCache

# Without a pool size, this part of the free memory may become KV cache.
_POOL_SHARE_OF_FREE_MEMORY = 0.5
_CONTEXT_WHERE_UNKNOWN = 32768


def open_model(
    folder: str | Path,
    device: str,
    config: KVCacheConfig,
    properties: Mapping[str, Any] | None,
    plan: KVPlan | None,
    decode_precision: str | None,
) -> PagedModel:
    """Compile the model in ``folder``; its cache is still to be made.

    Raises:
        ModelError, UnsupportedError, DeviceError, ConfigError: as :class:`PagedModel`.
    """
    return PagedModel(folder, device, _precisions(config, plan), properties, decode_precision)


def make_cache(
    model: PagedModel,
    config: KVCacheConfig,
    plan: KVPlan | None,
    most: float,
    *,
    limits: EngineLimits,
) -> KVCache:
    """Give ``model`` its cache.

    A layer may take more than its even part of the pool where budgets differ: only address space is
    set apart for that, all layers together stay within the pool.

    Args:
        model: compiled, without a cache.
        config: its ``pool_size`` goes first.
        plan: tells the context length where the pool is sized by it.
        most: times its even part that one layer may take.
        limits: of the engine.
    """
    if config.pool_size is not None:
        num_pages = pages_for(config.pool_size)
    elif limits.pool_bytes:
        num_pages = limits.pool_bytes // model.page_bytes
    else:
        context = (plan and plan.context_length) or _CONTEXT_WHERE_UNKNOWN
        affordable = psutil.virtual_memory().available * _POOL_SHARE_OF_FREE_MEMORY
        num_pages = min(
            pages_for(context) * limits.max_num_seqs, int(affordable / model.page_bytes)
        )
    num_pages = max(1, num_pages)
    num_layers = len(model.layers)
    layer_pages = [int(num_pages * min(most, num_layers))] * num_layers
    model.reserve(layer_pages)
    layer_bytes = [memory.page_bytes() for memory in model.memories]
    pool = PagePool(layer_pages, layer_bytes, num_pages * model.page_bytes)
    return KVCache(pool, model.memories)


def _precisions(
    config: KVCacheConfig, plan: KVPlan | None
) -> LayerPrecision | list[LayerPrecision] | None:
    """What the user asked for, else what the plan says, else None: the IR and the plugin decide."""
    key, value = config.key_cache_precision, config.value_cache_precision
    planned = plan.precisions if plan else ()
    if key is None and value is None:
        return list(planned) or None
    if key is not None and value is not None:
        return LayerPrecision(key, value)
    if not planned:
        given = key or value or ""
        return LayerPrecision(key or given, value or given)
    return [LayerPrecision(key or layer.key, value or layer.value) for layer in planned]
