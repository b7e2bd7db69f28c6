"""The parts of a paged engine put together: model, budgets, pool, eviction, scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.model_folder import fingerprint
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets, buy_tokens
from ov_kvcrush.runtime.eviction.compressor import Compressor
from ov_kvcrush.runtime.eviction.cut_plan import CutPlanner
from ov_kvcrush.runtime.eviction.interface import Eviction, NoEviction
from ov_kvcrush.runtime.eviction.layer_threads import LayerThreads
from ov_kvcrush.runtime.eviction.peaks import PeakMeter
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.paged.model_ahead import compiled_model
from ov_kvcrush.runtime.paged.model_choice import ModelRequest
from ov_kvcrush.runtime.pages.cache_layer import whole_layers
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.pages.pool import PagePool
from ov_kvcrush.runtime.plugin.spare_thread import SpareThread
from ov_kvcrush.runtime.scheduling.admission import Admission
from ov_kvcrush.runtime.scheduling.intake import Intake
from ov_kvcrush.runtime.scheduling.scheduler import Scheduler
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.prefixes import Prefixes
from ov_kvcrush.runtime.session_files.cache_identity import CacheIdentity

# Without a pool size, this part of the free memory may become KV cache.
_POOL_SHARE_OF_FREE_MEMORY = 0.5
_CONTEXT_WHERE_UNKNOWN = 32768


@dataclass(frozen=True)
class EngineParts:
    """The parts of a paged engine, wired.

    Attributes:
        config: what the cache may hold, in tokens.
        model: compiled, with its cache.
        identity: whose cache it is.
        gate_digest: of the gate that scores its tokens; empty for none.
        budgets: what each layer may hold.
        cache: pages of the sequences.
        planner: says when a cut is due.
        eviction: keeps them within the budget.
        meter: measures what second readings look at.
        prefixes: what is cached of prompts' beginnings.
        intake: begins requests.
        scheduler: chooses each step.
    """

    config: KVCacheConfig
    model: PagedModel
    identity: CacheIdentity
    gate_digest: str
    budgets: CacheBudgets
    cache: KVCache
    planner: CutPlanner
    eviction: Eviction
    meter: PeakMeter
    prefixes: Prefixes
    intake: Intake
    scheduler: Scheduler


def set_up(
    folder: str | Path,
    device: str,
    config: KVCacheConfig,
    properties: Mapping[str, Any] | None,
    limits: EngineLimits,
    decode_precision: str,
    beside: SequenceOf[KVCacheConfig] = (),
    spare: SpareThread | None = None,
) -> EngineParts:
    """The parts of an engine for the model in ``folder``; errors as :class:`Engine`.

    ``beside``: policies that sequences on this model are cut by too; it computes what they look at.
    ``spare``: begins when the model is about to be compiled.
    """
    request = ModelRequest(
        Path(folder), device, config, dict(properties or {}), decode_precision, tuple(beside)
    )
    choice, model = compiled_model(request, spare.begin if spare else None)
    config, plan, gate, shares = choice.config, choice.plan, choice.gate, choice.shares
    budgets = CacheBudgets(config, model.cache_layers, shares)
    if config.kv_budget_mb is not None:
        config = buy_tokens(config, budgets, model.layouts)
        budgets = CacheBudgets(config, model.cache_layers, shares)
    cache = _make_cache(model, config, plan, budgets.largest_shares(), limits)
    planner = CutPlanner(config, budgets, limits.max_num_batched_tokens)
    threads = LayerThreads()
    eviction: Eviction = NoEviction()
    if config.evicts:
        eviction = Compressor(
            model.layers, model.scales, model.memories, config, budgets, planner, threads
        )
    prefixes = Prefixes(cache, eviction.window_size, config.prefix_caching)
    admission = Admission(cache, planner)
    scheduler = Scheduler(
        cache, admission, prefixes, limits.max_num_batched_tokens, limits.max_num_seqs
    )
    return EngineParts(
        config=config,
        model=model,
        identity=CacheIdentity(
            plan.fingerprint if plan else fingerprint(folder),
            model.vocab_size,
            tuple(layer.geometry for layer in whole_layers(model.cache_layers)),
            model.precisions,
        ),
        gate_digest=gate.digest if gate is not None else "",
        budgets=budgets,
        cache=cache,
        planner=planner,
        eviction=eviction,
        meter=PeakMeter(model.layers, model.scales, model.memories, budgets.budgeted, threads),
        prefixes=prefixes,
        intake=Intake(model.layers, cache, planner, eviction, prefixes, admission, model.has_gate),
        scheduler=scheduler,
    )


def _make_cache(
    model: PagedModel,
    config: KVCacheConfig,
    plan: KVPlan | None,
    largest_shares: SequenceOf[float],
    limits: EngineLimits,
) -> KVCache:
    """Give ``model`` its cache.

    A layer may take more than its even part of the pool where budgets differ: only address space is
    set apart for that, all layers together stay within the pool.

    Args:
        model: compiled, without a cache.
        config: its ``pool_size`` goes first.
        plan: tells the context length where the pool is sized by it.
        largest_shares: by cache layer, how many times its even part it may take.
        limits: of the engine.
    """
    if config.pool_size is not None:
        num_pages = pages_for(config.pool_size)
    elif limits.pool_bytes:
        num_pages = limits.pool_bytes // model.page_bytes
    else:
        context = (plan and plan.context_length) or _CONTEXT_WHERE_UNKNOWN
        wanted = pages_for(context) * limits.max_num_seqs
        affordable = psutil.virtual_memory().available * _POOL_SHARE_OF_FREE_MEMORY
        num_pages = min(wanted, int(affordable / model.page_bytes))
    num_pages = max(1, num_pages)
    layer_pages = [int(num_pages * share) for share in largest_shares]
    model.reserve(layer_pages)
    layer_bytes = [layout.page_bytes for layout in model.layouts]
    pool = PagePool(layer_pages, layer_bytes, num_pages * model.page_bytes)
    return KVCache(pool, model.memories)
