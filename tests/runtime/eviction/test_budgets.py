"""Budgets of cache layers: one mean over KV heads, whatever heads share a cache."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush import KVCacheConfig
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets, goes_by_heads
from ov_kvcrush.runtime.pages.cache_layer import cache_layers, each_head, undivided
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.sequences.sequence import Cut

LAYERS = (LayerGeometry(8, 4, 64, 64),) * 3
WHOLE, APART = cache_layers(LAYERS, undivided(LAYERS)), cache_layers(LAYERS, each_head(LAYERS))
MIXED = cache_layers(LAYERS, [[[0, 1, 2, 3]], [[3, 0], [1], [2]], [[1, 2, 3], [0]]])
SHARES = [[1.0] * 4, [0.5, 3.0, 0.5, 0.5], [2.0, 0.7, 0.7, 1.1]]
ON_AVERAGE_ONE = np.array(SHARES) / np.mean(SHARES)


def config(**settings: object) -> KVCacheConfig:
    return KVCacheConfig(**{"max_cache_size": 1024, **settings})  # type: ignore[arg-type]


def kept(budgets: CacheBudgets, layers: object, mean: int, held: int) -> list[int]:
    return budgets.divide(Cut(held, mean), [held] * len(budgets.budgeted))


@pytest.mark.parametrize("layers", [WHOLE, MIXED, APART])
def test_a_budget_is_the_mean_over_heads_in_whole_pages(layers: tuple) -> None:  # type: ignore[type-arg]
    budgets = CacheBudgets(config(), layers, SHARES)
    tokens = kept(budgets, layers, 1024, 8192)
    heads = [len(layer.heads) for layer in layers]
    assert np.dot(tokens, heads) == 1024 * 12
    if layers is not WHOLE:
        # One takes what is left of the total.
        assert sum(count % PAGE_SIZE > 0 for count in tokens) <= 1


def test_each_head_gets_its_own_share() -> None:
    config_ = config(start_size=0, recent_size=32)
    tokens = kept(CacheBudgets(config_, APART, SHARES), APART, 1024, 8192)
    shares = [share for layer in SHARES for share in layer]
    for count, share in zip(tokens, shares, strict=True):
        assert abs(count - 32 - 992 * share * 12 / sum(shares)) <= PAGE_SIZE


def test_heads_alike_are_what_layers_are_today() -> None:
    by_layer = [[0.5] * 4, [1.5] * 4, [1.0] * 4]
    planned = CacheBudgets(config(), WHOLE, by_layer)
    listed = CacheBudgets(config(layer_budgets=(0.5, 1.5, 1.0)), WHOLE, ())
    assert kept(planned, WHOLE, 1000, 5000) == kept(listed, WHOLE, 1000, 5000)


@pytest.mark.parametrize("layers", [WHOLE, MIXED, APART])
def test_without_head_budgets_all_heads_of_a_layer_hold_as_much(layers: tuple) -> None:  # type: ignore[type-arg]
    budgets = CacheBudgets(config(head_budgets="off"), layers, SHARES)
    tokens = kept(budgets, layers, 1024, 8192)
    for number in range(3):
        own = {t for t, one in zip(tokens, layers, strict=True) if one.layer == number}
        assert len(own) == 1


def test_who_goes_by_heads() -> None:
    assert goes_by_heads(config(), SHARES)
    assert goes_by_heads(config(layer_budgets="plan"), SHARES)
    for settings in (
        {"head_budgets": "off"},
        {"layer_budgets": "uniform"},
        {"layer_budgets": (1, 2, 3)},
        {"importance": "pyramidkv"},
        {"max_cache_size": 0},
    ):
        assert not goes_by_heads(config(**settings), SHARES)
    assert not goes_by_heads(config(), ())


@given(st.lists(st.integers(96, 4000), min_size=12, max_size=12), st.integers(96, 3000))
def test_no_head_gets_more_than_it_holds_and_the_total_is_used(held: list[int], mean: int) -> None:
    budgets = CacheBudgets(config(), APART, SHARES)
    tokens = budgets.divide(Cut(5000, mean), held)
    left = [min(count, has) for count, has in zip(tokens, held, strict=True)]
    assert sum(left) <= max(mean, 96) * 12
    if any(count < has for count, has in zip(tokens, held, strict=True)):
        assert sum(left) == max(mean, 96) * 12


def test_a_layer_with_a_window_has_no_budget_and_is_not_counted() -> None:
    layers = (LAYERS[0], LayerGeometry(8, 4, 64, 64, sliding_window=64), LAYERS[0])
    cached = cache_layers(layers, each_head(layers))
    budgets = CacheBudgets(config(), cached, [SHARES[1], [1.0] * 4, SHARES[2]])
    assert budgets.sliding == [4]
    assert budgets.mean_held([100] * 4 + [9] + [200] * 4) == 150
    assert budgets.largest_shares()[4] == 1.0


def test_heads_of_a_layer_may_hold_as_much_as_the_one_with_the_largest_share() -> None:
    largest = CacheBudgets(config(), APART, SHARES).largest_shares()
    for number, shares in enumerate(ON_AVERAGE_ONE):
        own = [most for most, one in zip(largest, APART, strict=True) if one.layer == number]
        assert own == pytest.approx([max(1.0, *shares)] * 4)


def test_what_is_described_is_what_heads_get() -> None:
    apart = CacheBudgets(config(), APART, SHARES).describe()
    np.testing.assert_allclose(np.array(apart), ON_AVERAGE_ONE, atol=1e-3)
    pairs = cache_layers(LAYERS, [[[0, 3], [1, 2]]] * 3)
    by_pair = CacheBudgets(config(), pairs, SHARES).describe()
    wanted = (ON_AVERAGE_ONE + ON_AVERAGE_ONE[:, [3, 2, 1, 0]]) / 2
    np.testing.assert_allclose(np.array(by_pair), wanted, atol=1e-3)
    by_layer = CacheBudgets(config(), WHOLE, SHARES).describe()
    np.testing.assert_allclose(np.array(by_layer), ON_AVERAGE_ONE.mean(axis=1), atol=1e-3)
