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
        ({"head_budgets": "of"}, "Did you mean 'off'?"),
        ({"head_budgets": True}, "head_budgets is True, a bool; it takes str"),
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


def hint_of(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        KVCacheConfig(**settings).require_page_multiples(32)
    return caught.value.hint


def numbers(hint: str) -> list[int]:
    return [int(number) for number in re.findall(r"\b\d+\b", hint)]


@pytest.mark.parametrize("recent_size", [0, 1, 8, 15])
def test_the_hint_of_a_window_that_is_too_wide_helps(recent_size: int) -> None:
    given: dict[str, Any] = {"max_cache_size": 256, "recent_size": recent_size}
    hint = hint_of(**given)
    name = "window_size" if recent_size else "recent_size"
    assert f"Set {name} to" in hint
    assert KVCacheConfig(**{**given, name: numbers(hint)[0]})


@pytest.mark.parametrize(
    "change",
    [
        {"max_cache_size": 100},
        {"max_cache_size": 250},
        {"start_size": 8},
        {"start_size": 200},
        {"recent_size": 70},
        {"recent_size": 20},
        {"prefill_budget": 260},
        {"max_cache_size": 97, "start_size": 33},
    ],
    ids=str,
)
def test_the_sizes_that_a_hint_names_can_be_used(change: dict[str, int]) -> None:
    given: dict[str, Any] = {"max_cache_size": 256, "granularity": "page", **change}
    given["max_cache_size"] = max(given["max_cache_size"], given.get("start_size", 32) + 65)
    for _ in range(3):  # one size after another
        try:
            KVCacheConfig(**given).require_page_multiples(32)
        except ConfigError as error:
            name, sizes = error.message.split()[0], numbers(error.hint)
            assert sizes
            for size in sizes:
                KVCacheConfig(**{**given, name: size})
            given[name] = sizes[-1]
    KVCacheConfig(**given).require_page_multiples(32)


@pytest.mark.parametrize(
    "given",
    [
        {"max_cache_size": 1},
        {"max_cache_size": 96},
        {"max_cache_size": 300, "prefill_budget": 10},
        {"max_cache_size": 300, "kernel_size": -4},
        {"max_cache_size": 300, "kernel_size": 6},
    ],
    ids=str,
)
def test_the_number_in_a_hint_is_enough(given: dict[str, Any]) -> None:
    name, number = list(given)[-1], numbers(hint_of(**given))[0]
    more = number + 1 if "more than" in hint_of(**given) else number
    assert KVCacheConfig(**{**given, name: more})


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
