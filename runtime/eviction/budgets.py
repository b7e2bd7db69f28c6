"""How much each layer of a sequence may hold: shares of a budget in tokens, bought with bytes."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, CacheLayout, kv_bytes_per_token
from ov_kvcrush.runtime.sequences.sequence import Cut
from ov_kvcrush.selection import (
    IMPORTANCE_METHODS,
    LayerShares,
    divide_between_layers,
    make_layer_shares,
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

    Attributes:
        budgeted: layers that have a budget.
        sliding: layers that have a window instead.

    Raises:
        ConfigError: layer budgets that do not fit the model or its plan.
    """

    def __init__(
        self,
        config: KVCacheConfig,
        layers: SequenceOf[LayerGeometry],
        planned_shares: SequenceOf[float],
    ) -> None:
        self._config = config
        self._page_size = config.selector(PAGE_SIZE).page_size
        self.budgeted = [n for n, layer in enumerate(layers) if not layer.sliding_window]
        self._windows = [layer.sliding_window for layer in layers]
        self.sliding = [n for n, layer in enumerate(layers) if layer.sliding_window]
        self._policy: LayerShares = make_layer_shares(
            config.layer_budgets,
            len(layers),
            preferred=IMPORTANCE_METHODS[config.importance].layer_budgets,
            planned=planned_shares,
        )

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
        """Shares of ``budgeted`` layers, 1 on average; even ones where they are measured later."""
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
        """Tokens each of the layers with a budget may keep at ``cut``.

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
            return [1.0] * len(self.budgeted)
        every = self._policy.shares(None, self._config.recent_size)
        return [every[n] for n in self.budgeted]

    def is_over(self, held: SequenceOf[int], budget: int) -> bool:
        """Whether ``budgeted`` layers pass ``budget`` on average; ``held`` is of all layers."""
        return sum(held[n] for n in self.budgeted) > budget * len(self.budgeted)


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


def budgeted_bytes(
    layers: SequenceOf[LayerGeometry],
    precisions: SequenceOf[LayerPrecision],
    tokens: int,
    budget: int,
) -> float:
    """Bytes that the cache of ``tokens`` tokens takes with a budget of ``budget`` of them.

    A layer with a sliding window is not cut to the budget: it holds its window.
    """
    num_bytes = 0.0
    for layer, precision in zip(layers, precisions, strict=True):
        most = layer.sliding_window + PAGE_SIZE if layer.sliding_window else budget
        num_bytes += min(tokens, most) * kv_bytes_per_token([layer], [precision])
    return num_bytes
