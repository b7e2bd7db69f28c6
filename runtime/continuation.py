"""A chat's next prompt: how much of the cache its last one left can be gone on from."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from ov_kvcrush.metrics import GenerationMetrics
from ov_kvcrush.runtime.kv_cache import KVCache
from ov_kvcrush.runtime.request import Session
from ov_kvcrush.runtime.sequence import Sequence


def continue_session(
    cache: KVCache, session: Session | None, prompt: list[int], metrics: GenerationMetrics
) -> Sequence | None:
    """The sequence of ``session``, taken back to what it shares with ``prompt`` and given the rest.

    None where there is none, or it cannot be taken back so far; its pages are free then, and
    ``metrics`` say why.
    """
    sequence = None if session is None else cache.unpark(session)
    if sequence is None:
        return None
    # The last prompt token is computed in any case: its logits are wanted.
    shared = _common_prefix(sequence.tokens[: sequence.num_cached], prompt[:-1])
    if not shared or not sequence.can_rewind_to(shared):
        if sequence.num_cached:
            metrics.restarted = (
                f"the history differs from the cached one at token {shared}, "
                f"and the cache can be taken back to token {sequence.rewind_floor} only"
            )
        cache.release(sequence)
        return None
    sequence.rewind_to(shared)
    cache.trim(sequence)
    sequence.tokens += prompt[shared:]
    sequence.planned_cuts = []
    metrics.num_reused_tokens = shared
    return sequence


def _common_prefix(first: SequenceOf[int], second: SequenceOf[int]) -> int:
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return count
