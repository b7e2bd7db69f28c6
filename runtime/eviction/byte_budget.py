"""How many tokens a budget in bytes buys, each layer storing its own in its own precision."""

from __future__ import annotations

from collections.abc import Sequence

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, CacheLayout


def buy_tokens(
    config: KVCacheConfig, budgets: CacheBudgets, layouts: Sequence[CacheLayout]
) -> KVCacheConfig:
    """``config`` with the most tokens whose cache stays within its ``kv_budget_mb``.

    Every layer holds start and recent area, its share of what lies between, what decoding may add
    until the next cut, and a page that is not full; a layer with a sliding window holds its window.

    Args:
        config: with ``kv_budget_mb``.
        budgets: the layers' shares; where these are measured at each cut, they count as even.
        layouts: of a page, by layer.

    Raises:
        ConfigError: not even start and recent area fit.
    """
    budget = 1e6 * (config.kv_budget_mb or 0)
    sizes = [(one.key_page_bytes + one.value_page_bytes) / PAGE_SIZE for one in layouts]
    always = config.start_size + config.recent_size + config.decode_slack + PAGE_SIZE
    fixed = sum(sizes[n] * always for n in budgets.chosen)
    fixed += sum(sizes[n] * (budgets.window(n) + PAGE_SIZE) for n in budgets.sliding)
    shares = budgets.shares()
    by_share = sum(sizes[n] * share for n, share in zip(budgets.chosen, shares, strict=True))
    # A layer that already keeps all leaves its part to the others, who may need more bytes for it.
    of_a_token = max(by_share, sum(sizes[n] for n in budgets.chosen))
    middle = int((budget - fixed) / of_a_token) if budgets.chosen else 0
    if config.granularity == "page":
        middle = middle // PAGE_SIZE * PAGE_SIZE
    if middle < 1:
        raise ConfigError(
            f"kv_budget_mb {config.kv_budget_mb:g} holds no token beside start_size, recent_size "
            f"and decode_slack, which take {fixed / 1e6:.3g} MB",
            "Give more, or make those smaller.",
        )
    return config.with_tokens(config.start_size + config.recent_size + middle)
