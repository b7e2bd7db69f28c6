"""What tests ask of a whole pipeline, and a look into its engine."""

from __future__ import annotations

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.runtime.paged.engine import PagedEngine

TEXT = "Below is a text. The fierce statue costs 4229 coins. How many coins does it cost?"
BUDGET = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24)


def engine_in(pipe: LLMPipeline) -> PagedEngine:
    """The engine that ``pipe`` drives."""
    engine = pipe.loaded_model.engine
    assert isinstance(engine, PagedEngine)
    return engine


def used_bytes(pipe: LLMPipeline) -> int:
    """Without the prefixes that are kept for others."""
    engine_in(pipe).prefixes.clear()
    return int(pipe.get_metrics()["kv_cache"]["used_bytes"])
