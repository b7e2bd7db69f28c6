"""What a cache will hold: told before anything is compiled, and what the engine then does."""

from __future__ import annotations

from statistics import fmean

import pytest

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.eviction.forecast import CacheForecast
from ov_kvcrush.runtime.pages.layout import CacheLayout, page_bytes

LAYERS = (LayerGeometry(4, 2, 20, 5),) * 3
F32 = (LayerPrecision("f32", "f32"),) * 3  # 100 bytes a token and KV head
CONFIG = KVCacheConfig(max_cache_size=1024)
SHARES = ((0.5, 0.5), (0.25, 3.25), (0.5, 1.0))


def by_head(forecast: CacheForecast, tokens: int) -> list[int]:
    held = zip(forecast.cache_layers, forecast.held(tokens), strict=True)
    return [count for layer, count in held for _ in layer.heads]


def test_a_text_that_fits_the_budget_is_held_whole() -> None:
    forecast = CacheForecast(CONFIG, LAYERS, F32, SHARES)
    assert {*forecast.held(1000)} == {1000}
    assert forecast.num_bytes(1000) == 1000 * 6 * 100


def test_heads_of_like_shares_share_a_cache_and_the_budget_is_their_mean() -> None:
    forecast = CacheForecast(CONFIG, LAYERS, F32, SHARES)
    groups = [(layer.layer, layer.heads) for layer in forecast.cache_layers]
    assert groups == [(0, (0, 1)), (1, (0,)), (1, (1,)), (2, (0, 1))]
    held = by_head(forecast, 8192)
    assert fmean(held) == pytest.approx(1024, abs=1)
    assert max(held) == held[3] > 2 * 1024
    assert forecast.num_bytes(8192) == pytest.approx(1024 * 6 * 100, rel=0.01)


def test_without_shares_layers_are_whole_and_alike() -> None:
    forecast = CacheForecast(CONFIG, LAYERS, F32, ())
    assert [layer.heads for layer in forecast.cache_layers] == [(0, 1)] * 3
    assert forecast.held(8192) == [1024] * 3


def test_bytes_count_where_the_tokens_lie() -> None:
    """A head that gets most of the budget takes what its own precision takes."""
    precisions = (LayerPrecision("f32", "f32"), LayerPrecision("u8", "u8"), F32[0])
    forecast = CacheForecast(CONFIG, LAYERS, precisions, SHARES)
    sizes = [CacheLayout.of(LAYERS[0], one).page_bytes / 32 / 2 for one in precisions]
    held = zip(by_head(forecast, 8192), (n // 2 for n in range(6)), strict=True)
    assert forecast.num_bytes(8192) == pytest.approx(sum(n * sizes[layer] for n, layer in held))
    even = CacheForecast(CONFIG, LAYERS, precisions, ())
    assert forecast.num_bytes(8192) < 0.9 * even.num_bytes(8192)


def test_a_sliding_window_is_held_whatever_the_budget() -> None:
    layers = (LAYERS[0], LayerGeometry(4, 2, 20, 5, sliding_window=128))
    forecast = CacheForecast(CONFIG, layers, F32[:2], ())
    assert forecast.held(8192) == [1024, 128 + 32]
    assert forecast.held(100) == [100, 100]


def test_at_most_there_is_the_slack_and_while_a_prompt_is_read_a_stretch() -> None:
    forecast = CacheForecast(CONFIG, LAYERS, F32, ())
    page = page_bytes(LAYERS, F32)
    assert forecast.most_bytes() == (1024 + 128) // 32 * page
    assert forecast.most_bytes_while_read(2048) == (1536 + 1024) // 32 * page
    assert forecast.most_bytes_while_read(512) == (1536 + 512) // 32 * page
    # Nobody has more than the context.
    assert forecast.most_bytes(512) == forecast.most_bytes_while_read(2048, 512) == 512 // 32 * page
