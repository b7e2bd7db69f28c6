"""How much each layer of a sequence may hold: shares of a budget in tokens, bought with bytes."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from itertools import groupby
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.runtime.pages.cache_layer import CacheLayer
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, CacheLayout
from ov_kvcrush.runtime.sequences.sequence import Cut
from ov_kvcrush.selection import (
    IMPORTANCE_METHODS,
    LayerShares,
    divide_between_layers,
    make_layer_shares,
    resolved_budgets,
)

# Shares measured at a cut are only known then; a pool is made before. Four is more than was seen.
_LARGEST_MEASURED_SHARE = 4.0


class CacheBudgets:
    """The budget of ``config`` for the cache layers of a model.

    A budget is the mean over KV heads. Layers with a sliding window never read what has left it, so
    they have no budget: they drop whole pages from the front as the window moves on.

    Args:
        config: what the cache may hold.
        layers: cache layers.
        planned_shares: of each KV head in the KV plan, by layer of the model; empty for none.

    Attributes:
        budgeted: cache layers that have a budget.
        sliding: cache layers that have a window instead.

    Raises:
        ConfigError: layer budgets that do not fit the model or its plan.
    """

    def __init__(
        self,
        config: KVCacheConfig,
        layers: SequenceOf[CacheLayer],
        planned_shares: SequenceOf[SequenceOf[float]],
    ) -> None:
        self._config = config
        self._layers = layers
        self._windows = [layer.geometry.sliding_window for layer in layers]
        self.budgeted = [n for n, window in enumerate(self._windows) if not window]
        self.sliding = [n for n, window in enumerate(self._windows) if window]
        self._heads = [len(layers[n].heads) for n in self.budgeted]
        self._page_size = config.selector(PAGE_SIZE).page_size
        self._policy: LayerShares = make_layer_shares(
            config.layer_budgets,
            layers[-1].layer + 1,
            preferred=IMPORTANCE_METHODS[config.importance].layer_budgets,
            planned=[fmean(layer) for layer in planned_shares],
        )
        self._by_head = planned_shares if goes_by_heads(config, planned_shares) else ()
        # Which of ``budgeted`` get a part together: each its own, or all of a layer of the model.
        whose = [n if self._by_head else layers[n].layer for n in self.budgeted]
        places = range(len(whose))
        self._shared = [list(one) for _, one in groupby(places, lambda place: whose[place])]
        # Where the heads of a layer hold as many tokens a page that is not full is one of a layer;
        # apart, each of them would have one.
        divided = len({layer.layer for layer in layers}) < len(layers)
        self._unit = PAGE_SIZE if self._by_head and divided else 1

    @property
    def needs_attention(self) -> bool:
        """Whether the shares of the last cut are measured."""
        return self._policy.needs_attention

    def describe(self) -> list[float] | list[list[float]] | str:
        """Shares of the model's layers in the budget, or by layer of their KV heads.

        They are 1 on average over heads; or it says that they are measured at each cut.
        """
        if self.needs_attention:
            return "measured at each cut"
        by_layer: dict[int, dict[int, float]] = {}
        for n, share in zip(self.budgeted, self.shares(), strict=True):
            layer = self._layers[n]
            by_layer.setdefault(layer.layer, {}).update(dict.fromkeys(layer.heads, round(share, 3)))
        by_head = [[heads[head] for head in sorted(heads)] for heads in by_layer.values()]
        if all(len({*heads}) == 1 for heads in by_head):
            return [heads[0] for heads in by_head]
        return by_head

    def window(self, number: int) -> int:
        """Tokens in the sliding window of cache layer ``number``."""
        return self._windows[number]

    def shares(self) -> list[float]:
        """Shares of ``budgeted`` layers, 1 on average over KV heads.

        Even ones where they are measured later.
        """
        shares = self._shares_unmeasured()
        total = sum(share * heads for share, heads in zip(shares, self._heads, strict=True))
        return [share * sum(self._heads) / total for share in shares]

    def largest_shares(self) -> list[float]:
        """By cache layer, how many times an even part of the budget it may get, 1 at least.

        Heads of a layer get as much as the one with the largest share: a saved cache may have been
        cut by layer, or by other shares.
        """
        largest = [1.0] * len(self._layers)
        if not self._config.evicts:
            return largest
        of_layer: dict[int, float] = {}
        for n, share in zip(self.budgeted, self.shares(), strict=True):
            layer = self._layers[n].layer
            of_layer[layer] = max(share, of_layer.get(layer, 1.0))
        for n in self.budgeted:
            most = of_layer[self._layers[n].layer]
            largest[n] = _LARGEST_MEASURED_SHARE if self.needs_attention else most
        return largest

    def measures(self, cut: Cut) -> bool:
        """Whether attention has a say at ``cut``: not while a prompt is read, before its end.

        What will be asked is not known there, and layers get even parts.
        """
        return self.needs_attention and not cut.reads_on

    def divide(
        self,
        cut: Cut,
        held: SequenceOf[int],
        attention: SequenceOf[NDArray[np.float32]] | None = None,
    ) -> list[int]:
        """Tokens each of the layers with a budget may keep at ``cut``.

        Args:
            cut: its budget is divided.
            held: tokens each of them holds.
            attention: of each of them, ``[Hq, S]``, where it was measured.
        """
        firsts = [places[0] for places in self._shared]
        if self.needs_attention and attention is not None:
            together = [np.concatenate([attention[n] for n in places]) for places in self._shared]
            shares = self._policy.shares(together, self._config.recent_size)
        else:
            every = self._shares_unmeasured()
            shares = [every[n] for n in firsts]
        parts = divide_between_layers(
            cut.budget,
            shares,
            [held[n] for n in firsts],
            [sum(self._heads[n] for n in places) for places in self._shared],
            start_size=self._config.start_size,
            # A page that is not full joins the recent area.
            recent_size=self._config.recent_size + self._page_size - 1,
            unit=self._unit,
        )
        # Their places follow one another, as cache layers follow the model's.
        return [part for part, places in zip(parts, self._shared, strict=True) for _ in places]

    def left_by(self, cut: Cut, held: SequenceOf[int]) -> list[int]:
        """Tokens of each layer that ``cut``, and sliding windows, leave of those ``held``."""
        left = list(held)
        for n in self.sliding:
            left[n] = min(left[n], self.window(n) + PAGE_SIZE)
        if cut.budget and self.is_over(left, cut.budget):
            kept = self.divide(cut, [left[n] for n in self.budgeted])
            for n, tokens in zip(self.budgeted, kept, strict=True):
                left[n] = min(left[n], tokens)
        return left

    def _shares_unmeasured(self) -> list[float]:
        if self.needs_attention:
            return [1.0] * len(self.budgeted)
        budgeted = [self._layers[n] for n in self.budgeted]
        if self._by_head:
            by_head = self._by_head
            return [fmean(by_head[one.layer][head] for head in one.heads) for one in budgeted]
        by_layer = self._policy.shares(None, self._config.recent_size)
        return [by_layer[one.layer] for one in budgeted]

    def mean_held(self, held: SequenceOf[int]) -> float:
        """Tokens that a KV head of ``budgeted`` layers holds on average; ``held`` is of all."""
        tokens = zip((held[n] for n in self.budgeted), self._heads, strict=True)
        return sum(count * heads for count, heads in tokens) / sum(self._heads)

    def is_over(self, held: SequenceOf[int], budget: int) -> bool:
        """Whether ``budgeted`` layers pass ``budget`` on average; ``held`` is of all layers."""
        return bool(self.budgeted) and self.mean_held(held) > budget


def goes_by_heads(config: KVCacheConfig, planned_shares: SequenceOf[SequenceOf[float]]) -> bool:
    """Whether ``config`` divides its budget by the shares of KV heads in the plan.

    Args:
        config: what the cache may hold.
        planned_shares: of each KV head, by layer of the model; empty for none.
    """
    if config.head_budgets == "off" or not config.evicts or isinstance(config.layer_budgets, tuple):
        return False
    preferred = IMPORTANCE_METHODS[config.importance].layer_budgets
    return resolved_budgets(config.layer_budgets, preferred, bool(planned_shares)) == "plan"


def buy_tokens(
    config: KVCacheConfig, budgets: CacheBudgets, layouts: SequenceOf[CacheLayout]
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
    sizes = [layout.page_bytes / PAGE_SIZE for layout in layouts]
    always = config.start_size + config.recent_size + config.decode_slack + PAGE_SIZE
    fixed = sum(sizes[n] * always for n in budgets.budgeted)
    fixed += sum(sizes[n] * (budgets.window(n) + PAGE_SIZE) for n in budgets.sliding)
    shares = budgets.shares()
    by_share = sum(sizes[n] * share for n, share in zip(budgets.budgeted, shares, strict=True))
    # A layer that already keeps all leaves its part to the others, who may need more bytes for it.
    of_a_token = max(by_share, sum(sizes[n] for n in budgets.budgeted))
    middle = int((budget - fixed) / of_a_token) if budgets.budgeted else 0
    if config.granularity == "page":
        middle = middle // PAGE_SIZE * PAGE_SIZE
    if middle < 1:
        raise ConfigError(
            f"kv_budget_mb {config.kv_budget_mb:g} holds no token beside start_size, recent_size "
            f"and decode_slack, which take {fixed / 1e6:.3g} MB",
            "Give more, or make those smaller.",
        )
    return config.with_tokens(config.start_size + config.recent_size + middle)
