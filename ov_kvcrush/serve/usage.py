"""What answers cost: OpenAI's count of tokens, and what the KV cache held of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ov_kvcrush.pipeline.results import DecodedResults


def usage(answers: Sequence[DecodedResults]) -> dict[str, Any]:
    """``usage`` of a request: each prompt counts once, every generated token too.

    Args:
        answers: one for each prompt.
    """
    prompt = sum(max(m.num_prompt_tokens for m in answer.metrics) for answer in answers)
    cached = sum(max(m.num_reused_tokens for m in answer.metrics) for answer in answers)
    generated = sum(m.num_generated_tokens for answer in answers for m in answer.metrics)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def costs(answers: Sequence[DecodedResults]) -> dict[str, Any]:
    """``ov_kvcrush`` of a request: tokens and bytes of all its sequences when they had ended.

    Times are milliseconds: to the first of all tokens, and the mean of those after the first.

    Args:
        answers: one for each prompt.
    """
    metrics = [m for answer in answers for m in answer.metrics]
    tpot = [m.tpot for m in metrics if m.tpot]
    return {
        "kv_tokens": sum(m.kv_tokens for m in metrics),
        "evicted_tokens": sum(m.num_evicted_tokens for m in metrics),
        "drafted_tokens": sum(m.num_drafted_tokens for m in metrics),
        "accepted_tokens": sum(m.num_accepted_tokens for m in metrics),
        "kv_bytes": sum(m.kv_bytes for m in metrics),
        "ttft_ms": round(1e3 * min(m.ttft for m in metrics), 1),
        "tpot_ms": round(1e3 * sum(tpot) / len(tpot), 1) if tpot else 0.0,
        "restarted": next((m.restarted for m in metrics if m.restarted), ""),
    }
