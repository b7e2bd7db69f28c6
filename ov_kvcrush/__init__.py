"""KVCrush for OpenVINO: a small KV cache, the right answers.

Beside our own classes it has the names of openvino_genai that programs of text generation use, so
that ``import ov_kvcrush as ov_genai`` is all they need to change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openvino_genai import (
        Adapter,
        AdapterConfig,
        AggregationMode,
        CacheEvictionConfig,
        ChatHistory,
        DeepSeekR1ReasoningParser,
        GenerationConfig,
        GenerationFinishReason,
        IncrementalParser,
        KVCrushAnchorPointMode,
        KVCrushConfig,
        Llama3JsonToolParser,
        Llama3PythonicToolParser,
        Parser,
        Phi4ReasoningParser,
        ReasoningParser,
        SchedulerConfig,
        SparseAttentionConfig,
        SparseAttentionMode,
        StopCriteria,
        StreamerBase,
        StreamingStatus,
        StructuralTagItem,
        StructuralTagsConfig,
        StructuredOutputConfig,
        TextParserStreamer,
        TextStreamer,
        TokenizedInputs,
        Tokenizer,
        get_version,
    )

    from ov_kvcrush.config import KVCacheConfig
    from ov_kvcrush.errors import OVKVCrushError, OVKVCrushWarning
    from ov_kvcrush.pipeline.answer import Answer
    from ov_kvcrush.pipeline.async_chat import AsyncChat
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline
    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
    from ov_kvcrush.pipeline.chat import Chat
    from ov_kvcrush.pipeline.deltas import Delta
    from ov_kvcrush.pipeline.genai_arguments import draft_model
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline
    from ov_kvcrush.pipeline.perf_metrics import PerfMetrics, RawPerfMetrics
    from ov_kvcrush.pipeline.results import DecodedResults, EncodedResults
    from ov_kvcrush.plan import KVPlan
    from ov_kvcrush.runtime.grammar.grammar import Grammar
    from ov_kvcrush.runtime.sequences.session import Session

__version__ = "0.1.0"
__all__ = [
    "Adapter",
    "AdapterConfig",
    "AggregationMode",
    "Answer",
    "AsyncChat",
    "AsyncLLMPipeline",
    "CacheEvictionConfig",
    "CachedPrefix",
    "Chat",
    "ChatHistory",
    "DecodedResults",
    "DeepSeekR1ReasoningParser",
    "Delta",
    "EncodedResults",
    "GenerationConfig",
    "GenerationFinishReason",
    "Grammar",
    "IncrementalParser",
    "KVCacheConfig",
    "KVCrushAnchorPointMode",
    "KVCrushConfig",
    "KVPlan",
    "LLMPipeline",
    "Llama3JsonToolParser",
    "Llama3PythonicToolParser",
    "OVKVCrushError",
    "OVKVCrushWarning",
    "Parser",
    "PerfMetrics",
    "Phi4ReasoningParser",
    "RawPerfMetrics",
    "ReasoningParser",
    "SchedulerConfig",
    "Session",
    "SparseAttentionConfig",
    "SparseAttentionMode",
    "StopCriteria",
    "StreamerBase",
    "StreamingStatus",
    "StructuralTagItem",
    "StructuralTagsConfig",
    "StructuredOutputConfig",
    "TextParserStreamer",
    "TextStreamer",
    "TokenizedInputs",
    "Tokenizer",
    "draft_model",
    "get_version",
]

_HOMES = {
    "Answer": "pipeline.answer",
    "AsyncChat": "pipeline.async_chat",
    "AsyncLLMPipeline": "pipeline.async_pipeline",
    "CachedPrefix": "pipeline.cached_prefix",
    "Chat": "pipeline.chat",
    "DecodedResults": "pipeline.results",
    "Delta": "pipeline.deltas",
    "EncodedResults": "pipeline.results",
    "Grammar": "runtime.grammar.grammar",
    "KVCacheConfig": "config",
    "KVPlan": "plan",
    "LLMPipeline": "pipeline.llm_pipeline",
    "OVKVCrushError": "errors",
    "OVKVCrushWarning": "errors",
    "PerfMetrics": "pipeline.perf_metrics",
    "RawPerfMetrics": "pipeline.perf_metrics",
    "Session": "runtime.sequences.session",
    "draft_model": "pipeline.genai_arguments",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: importing the package must not start OpenVINO.
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in __all__:
        importlib.import_module(f"{__name__}.runtime")  # how OpenVINO is to run here
        return getattr(importlib.import_module("openvino_genai"), name)
    hint = ""
    if name.endswith("Pipeline"):
        hint = ", which generates text only; other pipelines are in openvino_genai"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted(__all__)
