"""A chat's next prompt: how much of the cache its last one left can be gone on from."""

from __future__ import annotations

from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.generation.request import Session
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.prefixes import common_prefix
from ov_kvcrush.runtime.sequences.sequence import Sequence


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
    shared = common_prefix(sequence.tokens[: sequence.num_cached], prompt[:-1])
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
    sequence.num_reused = shared
    return sequence
