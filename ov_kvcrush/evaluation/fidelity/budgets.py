"""What each configuration may keep of a prompt: the same total for every policy."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.policies import find_policy
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE

PREFILL_FACTOR = 1.5
"""What is kept while a prompt is read, of what is kept in the end, unless it is asked otherwise."""

# No prompt has as many: the cuts bring their budgets along.
_ANY_BUDGET = 1 << 24


def needs_whole_pages(configurations: Sequence[Configuration]) -> bool:
    """Whether one of them keeps whole pages: then all get budgets of whole pages."""
    return any(
        c.keep is not None
        and (c.engine == "genai" or find_policy(c.policy).settings.get("granularity") == "page")
        for c in configurations
    )


def budget_of(keep: Fraction, tokens: int, whole_pages: bool) -> int:
    """Tokens that may stay of a prompt of ``tokens``, never more than the part ``keep`` of them."""
    budget = int(keep * tokens)
    return budget // PAGE_SIZE * PAGE_SIZE if whole_pages else budget


def prefill_budget_of(budget: int, factor: float, whole_pages: bool) -> int:
    """Tokens that may stay while a prompt is read, never less than ``budget``; 0 is all."""
    if not factor:
        return 0
    prefill = int(factor * budget)
    return max(budget, prefill // PAGE_SIZE * PAGE_SIZE if whole_pages else prefill)


def policy_config(configuration: Configuration, budget: int = _ANY_BUDGET) -> KVCacheConfig:
    """The settings of the policy of ``configuration``, for ``budget`` tokens.

    Raises:
        ConfigError: that leaves nothing to choose, or as ``KVCacheConfig``.
    """
    settings = dict(find_policy(configuration.policy).settings)
    # Each cut of the prompt is made when it is told to be.
    settings |= {"max_cache_size": budget, "prefill_budget": 0}
    return KVCacheConfig.from_dict(settings)


def leaves_nothing(
    configurations: Sequence[Configuration], tokens: int, whole_pages: bool
) -> ConfigError | None:
    """Why some budget of a prompt of ``tokens`` cannot be kept to; None where all can."""
    for configuration in configurations:
        if configuration.keep is None:
            continue
        budget = budget_of(configuration.keep, tokens, whole_pages)
        try:
            policy_config(configuration, max(1, budget))
        except ConfigError as error:
            return error
    return None
