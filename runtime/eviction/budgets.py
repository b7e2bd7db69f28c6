"""What the layers of one sequence may hold, and how many pages its prompt takes at most."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.eviction.cut_plan import plan_cuts, stretch_between_cuts
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, CacheLayout, pages_for
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence
from ov_kvcrush.selection import (
    IMPORTANCE_METHODS,
    LayerBudgets,
    divide_between_layers,
    make_layer_budgets,
)

# Shares measured at a cut are only known then; a pool is made before. Four is more than was seen.
_LARGEST_MEASURED_SHARE = 4.0


class CacheBudgets:
    """The budget of ``config`` for the layers of a model.

    Layers with a sliding window never read what has left it, so they have no budget: they drop
    whole pages from the front as the window moves on.

    Args:
        config: what the cache may hold.
        layers: geometry by layer.
        planned_shares: of each layer in the KV plan; empty for none.
        chunk: most tokens of one inference.

    Attributes:
        chosen: layers that have a budget.
        sliding: layers that have a window instead.

    Raises:
        ConfigError: layer budgets that do not fit the model or its plan.
    """

    def __init__(
        self,
        config: KVCacheConfig,
        layers: SequenceOf[LayerGeometry],
        planned_shares: SequenceOf[float],
        chunk: int,
    ) -> None:
        self._config = config
        self._stretch = stretch_between_cuts(config.max_cache_size, chunk)
        self._page_size = config.selector(PAGE_SIZE).page_size
        self._num_layers = len(layers)
        self.chosen = [n for n, layer in enumerate(layers) if not layer.sliding_window]
        self._windows = [layer.sliding_window for layer in layers]
        self.sliding = [n for n, layer in enumerate(layers) if layer.sliding_window]
        self._policy: LayerBudgets = make_layer_budgets(
            config.layer_budgets,
            len(layers),
            preferred=IMPORTANCE_METHODS[config.importance].layer_budgets,
            planned=planned_shares,
        )

    @property
    def evicts(self) -> bool:
        """Whether there is a budget at all."""
        return self._config.evicts

    @property
    def needs_attention(self) -> bool:
        """Whether the shares of the last cut are measured."""
        return self._policy.needs_attention

    def describe(self) -> list[float] | str:
        """The layers' shares, 1 on average, or that they are measured at each cut."""
        if self.needs_attention:
            return "measured at each cut"
        return [round(share, 3) for share in self._policy.shares(None, self._config.recent_size)]

    def window(self, number: int) -> int:
        """Tokens in the sliding window of layer ``number``."""
        return self._windows[number]

    def shares(self) -> list[float]:
        """Shares of the chosen layers, 1 on average; even ones where they are measured later."""
        shares = self._shares_unmeasured()
        return [share * len(shares) / sum(shares) for share in shares]

    @property
    def largest_share(self) -> float:
        """How many times an even part of the budget one layer may get."""
        if not self._config.evicts:
            return 1.0
        if self.needs_attention:
            return _LARGEST_MEASURED_SHARE
        return max(1.0, *self._policy.shares(None, self._config.recent_size))

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
        """Tokens each of the chosen layers may keep at ``cut``.

        Args:
            cut: its budget is divided.
            held: tokens each of them holds.
            attention: of each of them, ``[Hq, S]``, where it was measured.
        """
        if self.needs_attention and attention is not None:
            shares = self._policy.shares(attention, self._config.recent_size)
        else:
            shares = self._shares_unmeasured()
        return divide_between_layers(
            cut.budget,
            shares,
            held,
            start_size=self._config.start_size,
            # A page that is not full joins the recent area.
            recent_size=self._config.recent_size + self._page_size - 1,
        )

    def _shares_unmeasured(self) -> list[float]:
        if self.needs_attention:
            return [1.0] * len(self.chosen)
        every = self._policy.shares(None, self._config.recent_size)
        return [every[n] for n in self.chosen]

    def is_over(self, held: SequenceOf[int], budget: int) -> bool:
        """Whether the chosen layers pass ``budget`` on average; ``held`` is of all layers."""
        return sum(held[n] for n in self.chosen) > budget * len(self.chosen)

    def plan_prompt(self, sequence: Sequence, num_tokens: int, reads_on: bool = False) -> None:
        """Plan the cuts of ``sequence`` up to the end of its prompt, the first ``num_tokens``.

        ``reads_on``: what is asked about it will only follow.
        """
        config = self._config
        if not config.evicts:
            return
        new = num_tokens - sequence.num_cached
        grown = [layer.length + new for layer in sequence.layers]
        # A chat's next question that fits the slack does not cut the cache once more.
        limit = config.max_cache_size + config.decode_slack
        if sequence.num_cached and not self.is_over(grown, limit - 1):
            return
        sequence.planned_cuts += plan_cuts(
            sequence.num_cached,
            num_tokens,
            max_cache_size=config.max_cache_size,
            prefill_budget=config.tokens_kept_in_prefill,
            stretch=self._stretch,
        )
        if reads_on:
            sequence.planned_cuts[-1] = replace(sequence.planned_cuts[-1], reads_on=True)

    def pages_at_most(self, sequence: Sequence, decoding: bool = False) -> list[list[int]]:
        """Pages by layer at each of the planned cuts and at the end: what the pool has to hold.

        Args:
            sequence: not changed.
            decoding: also when it has grown behind its prompt as far as the slack allows.
        """
        held = sequence.lengths
        at, stages = sequence.num_cached, []
        for cut in [*sequence.planned_cuts, Cut(len(sequence.tokens), 0)]:
            held = [tokens + cut.num_cached - at for tokens in held]
            at = cut.num_cached
            stages.append([pages_for(tokens) for tokens in held])
            for n in self.sliding:
                held[n] = min(held[n], self._windows[n] + PAGE_SIZE)
            if cut.budget and self.is_over(held, cut.budget):
                kept = self.divide(cut, [held[n] for n in self.chosen])
                for n, tokens in zip(self.chosen, kept, strict=True):
                    held[n] = min(held[n], tokens)
        if decoding and self.evicts and self.chosen:
            limit = self._config.max_cache_size + self._config.decode_slack
            room = limit - sum(held[n] for n in self.chosen) // len(self.chosen)
            stages.append([pages_for(tokens + max(0, room)) for tokens in held])
        return stages


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
