"""When the cache of a prompt is cut while it is read, and to how many tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedCut:
    """A cut when ``num_cached`` tokens of the sequence have been read, to ``budget`` tokens.

    ``budget`` is the mean of the layers.
    """

    num_cached: int
    budget: int


def plan_cuts(
    num_cached: int, num_tokens: int, *, max_cache_size: int, prefill_budget: int, chunk: int
) -> list[PlannedCut]:
    """The cuts of a prompt whose tokens ``num_cached … num_tokens - 1`` are still to be read.

    After every ``chunk`` tokens the cache is cut to ``prefill_budget``, so that it never holds more
    than both together; at the end to ``max_cache_size``. A ``prefill_budget`` of 0 leaves the last
    cut alone.
    """
    cuts = []
    if prefill_budget:
        boundaries = range(num_cached + chunk, num_tokens, chunk)
        cuts = [PlannedCut(boundary, prefill_budget) for boundary in boundaries]
    return [*cuts, PlannedCut(num_tokens, max_cache_size)]
