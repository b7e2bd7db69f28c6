"""Settings behind a name: what a command line can say, and how what it cannot is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ov_kvcrush.config_text import read_settings
from ov_kvcrush.errors import ConfigError

SHARED = {"max_cache_size": "--keep", "prefix_caching": ""}


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ("window_size=32", {"window_size": 32}),
        ("importance=keydiff,start_size=16", {"importance": "keydiff", "start_size": 16}),
        ("layer_budgets=1,2,1,window_size=8", {"layer_budgets": [1, 2, 1], "window_size": 8}),
        ("granularity=page", {"granularity": "page"}),
        ("representative_share=0.75", {"representative_share": 0.75}),
    ],
)
def test_values_are_numbers_lists_and_words(settings: str, given: dict[str, Any]) -> None:
    assert read_settings("policy", f"one:{settings}", {}, SHARED) == given


def test_what_the_name_stands_for_stays_where_nothing_else_is_given() -> None:
    base = {"window_size": 4, "start_size": 8}
    assert read_settings("policy", "one:window_size=32", base, {}) == base | {"window_size": 32}


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ("", "policy 'one:': '' is not FIELD=VALUE", "--policy one:"),
        ("window_size", "'window_size' is not FIELD=VALUE", "--policy one:"),
        ("window_size=", "'window_size=' is not FIELD=VALUE", "--policy one:"),
        ("windowsize=3", "windowsize", "window_size"),
        ("window_size=many", "window_size", ""),
        ("window_size=" + "[" * 100_000, "window_size", ""),
        ("max_cache_size=3", "max_cache_size is the same for all", "Give it with --keep."),
        ("prefix_caching=true", "prefix_caching is the same for all", "Leave it out."),
    ],
)
def test_a_mistake_is_told_with_the_text_it_is_in(settings: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings("policy", f"one:{settings}", {}, SHARED)
    assert message in caught.value.message
    assert "policy 'one:" in caught.value.message
    assert hint in caught.value.hint
