"""Settings are checked when they are made, and every message says what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.precisions import require_precision_pair


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_cache_size": -1}, "max_cache_size is -1, below 0"),
        ({"max_cache_size": 96}, "start_size 32 \\+ recent_size 64 already take 96"),
        ({"max_cache_size": 500, "window_size": 80}, "window_size 80 exceeds recent_size 64"),
        ({"window_size": 0}, "window_size is 0"),
        ({"kernel_size": 4}, "kernel_size is 4; a centred window is odd"),
        ({"representative_share": 1.5}, "representative_share is 1.5, outside 0 to 1"),
        ({"signature_fraction": 1.5}, "signature_fraction is 1.5, outside 0 to 1"),
        ({"pool_size": 0}, "pool_size is 0, below 1"),
        ({"granularity": "pages"}, "Did you mean 'page'?"),
        ({"importance": "snapvk"}, "Did you mean 'snapkv'?"),
        ({"representatives": "ranks"}, "Did you mean 'rank'?"),
        ({"anchor": "median"}, "anchor 'median' is not known"),
        ({"key_cache_precision": "int8"}, "key_cache_precision 'int8' is not known"),
        ({"max_cache_size": "1024"}, "max_cache_size is '1024', a str; it takes int"),
        ({"max_cache_size": True}, "max_cache_size is True, a bool"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KVCacheConfig(**settings)
    assert re.search(message, str(caught.value))


def test_sizes_are_only_compared_where_something_is_evicted() -> None:
    assert not KVCacheConfig(max_cache_size=0, start_size=500, window_size=100).evicts


def test_whole_pages_need_multiples_of_the_page() -> None:
    config = KVCacheConfig(max_cache_size=320, granularity="page")
    config.require_page_multiples(32)
    with pytest.raises(ConfigError, match="320 is not a multiple of the page size 48"):
        config.require_page_multiples(48)
    KVCacheConfig(max_cache_size=321).require_page_multiples(32)


def test_a_config_survives_a_file(tmp_path: Path) -> None:
    config = KVCacheConfig(max_cache_size=777, representatives="rank", anchor="ones")
    path = tmp_path / "cache.json"
    path.write_text(json.dumps(config.to_dict()))
    assert KVCacheConfig.from_file(path) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"max_cach_size": 9}', "Did you mean 'max_cache_size'?"),
        ("[]", "holds a list, not a JSON object"),
        ("{", "is not valid JSON"),
    ],
)
def test_a_bad_config_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cache.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        KVCacheConfig.from_file(path)
    assert message in str(caught.value)


def test_a_missing_config_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.json"):
        KVCacheConfig.from_file(tmp_path / "none.json")


def test_precision_pairs_the_plugin_cannot_hold_are_refused() -> None:
    require_precision_pair("u8", "u4")
    with pytest.raises(ConfigError, match="keys in bf16 with values in u8"):
        require_precision_pair("bf16", "u8")
