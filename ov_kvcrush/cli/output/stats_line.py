"""What a turn cost, in one line, and what else its user has to know about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ov_kvcrush.runtime.generation.metrics import GenerationMetrics

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig

    from ov_kvcrush.pipeline.results import DecodedResults
    from ov_kvcrush.runtime.interface import EngineDescription


def stats_line(metrics: GenerationMetrics, description: EngineDescription) -> str:
    """Times, prompt tokens and KV cache of one answer.

    Args:
        metrics: of the answer.
        description: what the pipeline's ``describe`` says.
    """
    parts = [f"TTFT {_number(1e3 * metrics.ttft)} ms"]
    if metrics.num_generated_tokens > 1:
        parts.append(f"TPOT {_number(1e3 * metrics.tpot)} ms")
    parts += [_prompt(metrics), _cache(metrics, description)]
    return " · ".join(parts)


def remarks(
    results: DecodedResults, config: GenerationConfig, context_length: int = 0
) -> list[str]:
    """A line for each thing that was not as usual: text read anew, no answer, or one cut off.

    Args:
        results: of one answer.
        config: its settings.
        context_length: tokens that it and its prompt may have; 0 where they are not bounded.
    """
    metrics, lines = results.metrics[0], []
    if metrics.restarted:
        lines.append(f"The history was read anew: {metrics.restarted}.")
    if metrics.num_preemptions:
        times = f" {metrics.num_preemptions} times" if metrics.num_preemptions > 1 else ""
        lines.append(
            f"The KV cache's pool was full: what was read was dropped and read anew{times}."
        )
    if not results.texts[0].strip():
        lines.append("The answer is empty: it ended before its first word.")
    if results.finish_reasons[0].name == "LENGTH":
        lines.append(f"The answer was cut off: {_limit(metrics, config, context_length)}.")
    return lines


def megabytes(num_bytes: float) -> str:
    """``num_bytes`` in MB (10^6 bytes), three digits or whole megabytes."""
    return f"{_number(num_bytes / 1e6)} MB"


def _prompt(metrics: GenerationMetrics) -> str:
    reused = f" ({metrics.num_reused_tokens:,} reused)" if metrics.num_reused_tokens else ""
    return f"{metrics.num_prompt_tokens:,} in{reused}"


def _cache(metrics: GenerationMetrics, description: EngineDescription) -> str:
    config = description.kv_cache_config
    tokens = f"KV {metrics.kv_tokens:,} tokens"
    if config.max_cache_size:
        # What lies between two cuts is part of what was asked for: no overrun.
        slack = f" + {config.decode_slack:,} slack" if config.decode_slack else ""
        tokens += f" (budget {config.max_cache_size:,}{slack})"
    size = megabytes(metrics.kv_bytes)
    if metrics.num_evicted_tokens:
        size += f" of {megabytes(metrics.kv_bytes_full)}"
    parts = [tokens, size]
    key, value = description.key_cache_precision, description.value_cache_precision
    if key and value:
        parts.append(f"K {key} V {value}")
    if metrics.num_evicted_tokens:
        parts.append(f"{metrics.num_evicted_tokens:,} evicted")
    return ", ".join(parts)


def _limit(metrics: GenerationMetrics, config: GenerationConfig, context_length: int) -> str:
    if metrics.num_generated_tokens >= config.max_new_tokens:
        return f"max_new_tokens is {config.max_new_tokens:,}"
    if metrics.num_prompt_tokens + metrics.num_generated_tokens >= config.max_length:
        return f"max_length is {config.max_length:,}"
    if 0 < context_length <= metrics.num_prompt_tokens + metrics.num_generated_tokens:
        return f"the model was made to read {context_length:,} tokens"
    return "the KV cache's pool is full"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"
