"""KVCrush for OpenVINO: a small KV cache, the right answers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ov_kvcrush.config import KVCacheConfig
    from ov_kvcrush.errors import OVKVCrushError
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline
    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
    from ov_kvcrush.pipeline.chat import Chat
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline
    from ov_kvcrush.pipeline.results import DecodedResults, EncodedResults
    from ov_kvcrush.plan import KVPlan
    from ov_kvcrush.runtime.sequences.session import Session

__version__ = "0.1.0"
__all__ = [
    "AsyncLLMPipeline",
    "CachedPrefix",
    "Chat",
    "DecodedResults",
    "EncodedResults",
    "KVCacheConfig",
    "KVPlan",
    "LLMPipeline",
    "OVKVCrushError",
    "Session",
]

_HOMES = {
    "AsyncLLMPipeline": "pipeline.async_pipeline",
    "CachedPrefix": "pipeline.cached_prefix",
    "Chat": "pipeline.chat",
    "DecodedResults": "pipeline.results",
    "EncodedResults": "pipeline.results",
    "KVCacheConfig": "config",
    "KVPlan": "plan",
    "LLMPipeline": "pipeline.llm_pipeline",
    "OVKVCrushError": "errors",
    "Session": "runtime.sequences.session",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: importing the package must not start OpenVINO.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
