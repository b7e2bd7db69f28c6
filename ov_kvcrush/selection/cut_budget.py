"""How the budget of one cut is divided: start, important, representatives, recent."""

from __future__ import annotations

from dataclasses import dataclass

from ov_kvcrush.errors import ConfigError


@dataclass(frozen=True)
class CutBudget:
    """What one cut keeps of a layer, the same for every KV head.

    Attributes:
        middle_begin: first slot between the start and the recent area.
        middle_end: first slot of the recent area; whole pages lie between the two.
        important: pages of the middle that the importance method keeps.
        representatives: pages of the middle kept in place of the evicted ones.
    """

    middle_begin: int
    middle_end: int
    important: int
    representatives: int


def divide_budget(
    num_slots: int,
    max_cache_size: int,
    *,
    start_size: int,
    recent_size: int,
    representative_share: float,
    page_size: int = 1,
) -> CutBudget:
    """Divide ``max_cache_size`` of the ``num_slots`` tokens a KV head holds, fewer than it holds.

    Sizes are in tokens and, above a ``page_size`` of 1, multiples of it. The recent area then grows
    by up to ``page_size - 1`` tokens to begin with a page, and the middle keeps the whole pages
    that still fit: at most ``page_size - 1`` tokens of the budget stay unused, and it is never
    exceeded. Representatives get ``representative_share`` of what the middle keeps, rounded as
    Python's ``round`` does: to the nearest count, half to even. As fewer tokens are kept than held,
    every head has more evicted pages than representatives.

    Raises:
        ConfigError: the start and recent areas alone exceed the budget.
    """
    middle_end = (num_slots - recent_size) // page_size * page_size
    kept = (max_cache_size - start_size - (num_slots - middle_end)) // page_size
    if kept < 0:
        raise ConfigError(
            f"max_cache_size {max_cache_size} has no room for start_size {start_size} and "
            f"recent_size {recent_size} (page size {page_size})",
            f"Give max_cache_size at least {start_size + recent_size + page_size}.",
        )
    representatives = round(representative_share * kept)
    return CutBudget(start_size, middle_end, kept - representatives, representatives)
