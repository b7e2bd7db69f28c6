"""Configurations: which are compared, with which budgets and settings."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.configurations import (
    Configuration,
    make_configurations,
    parse_keep,
    parse_precision,
)
from ov_kvcrush.evaluation.policies import DEFAULT_POLICIES, FULL, POLICIES, find_policy
from ov_kvcrush.runtime.genai.eviction import GenaiEviction

QUARTER = Fraction(1, 4)


def test_the_full_cache_comes_first_in_each_precision() -> None:
    made = make_configurations(
        ["rank", "full", "h2o"], [QUARTER, Fraction(1, 2)], [("u8", "u8"), ("u4", "u4")]
    )
    names = ["full cache", "rank 1/4", "h2o 1/4", "rank 1/2", "h2o 1/2"]
    wanted = [f"{name} {pair}" for pair in ("u8/u8", "u4/u4") for name in names]
    assert [configuration.name for configuration in made] == wanted


def test_as_exported_is_not_a_part_of_a_name() -> None:
    made = make_configurations(["rank"], [QUARTER], [])
    assert [configuration.name for configuration in made] == ["full cache", "rank 1/4"]


def test_the_full_cache_runs_on_the_engine_of_the_policies() -> None:
    assert make_configurations(["genai"], [QUARTER], [])[0].engine == "genai"
    assert make_configurations(["genai", "rank"], [QUARTER], [])[0].engine == "paged"
    assert make_configurations(["full"], [QUARTER], [])[0].engine == "paged"


def test_an_unknown_policy_is_refused_with_the_closest_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'snapkv'"):
        make_configurations(["snapkw"], [QUARTER], [])


@pytest.mark.parametrize("tokens", [200, 1000, 4400, 10_001, 130_000])
def test_budgets_are_pages_and_little_below_the_part(tokens: int) -> None:
    budget = Configuration("rank", "paged", QUARTER).budget(tokens)
    assert budget % 32 == 0
    assert 0 <= tokens / 4 - budget <= max(32, 0.05 * tokens / 4)


def test_many_sizes_share_few_budgets() -> None:
    configuration = Configuration("rank", "paged", QUARTER)
    budgets = {configuration.budget(tokens) for tokens in range(3000, 5000)}
    assert len(budgets) <= 17
    assert len({configuration.budget(tokens) for tokens in range(24_000, 40_000)}) <= 20


def test_the_full_cache_has_no_budget_and_a_part_always_has_one() -> None:
    assert Configuration(FULL, "paged").budget(4000) == 0
    assert Configuration("rank", "paged", QUARTER).budget(8) == 32


@pytest.mark.parametrize("name", [name for name in POLICIES if name != FULL])
def test_every_policy_is_a_valid_config_with_the_budget_asked_for(name: str) -> None:
    policy = POLICIES[name]
    config = Configuration(name, policy.engine, QUARTER).cache_config(1024, 2)
    assert config.max_cache_size == 1024
    if policy.engine == "genai":
        eviction = GenaiEviction.of(config, block_size=32)
        kept = eviction.start + eviction.important + eviction.representatives + eviction.recent
        assert kept == 1024
        assert bool(eviction.representatives) == (name == "genai-kvcrush")
    else:
        assert config.decode_slack == 1024
        assert config.prefill_budget == 2048


def test_default_is_what_a_user_gets() -> None:
    config = Configuration("default", "paged", QUARTER).cache_config(1024, None)
    assert config == KVCacheConfig(max_cache_size=1024, decode_slack=1024)
    assert set(DEFAULT_POLICIES) < set(POLICIES)


def test_a_policy_takes_other_settings() -> None:
    text = "keydiff:layer_budgets=1,2.5,0,start_size=64,anchor=ones"
    policy = find_policy(text)
    assert policy.settings == {
        **POLICIES["keydiff"].settings,
        "layer_budgets": [1, 2.5, 0],
        "start_size": 64,
        "anchor": "ones",
    }
    (_, configuration) = make_configurations([text], [QUARTER], [])
    assert configuration.name == f"{text} 1/4"
    config = configuration.cache_config(1024, None)
    assert config.layer_budgets == (1, 2.5, 0)
    assert (config.start_size, config.anchor, config.importance) == (64, "ones", "keydiff")
    assert find_policy("genai:start_size=64").engine == "genai"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default:", "'' is not FIELD=VALUE"),
        ("default:window_size", "'window_size' is not FIELD=VALUE"),
        ("default:window_size=", "'window_size=' is not FIELD=VALUE"),
        ("default:windw_size=8", "Did you mean 'window_size'"),
        ("default:window_size=many", "window_size is 'many', a str; it takes int"),
        ("default:representative_share=2", "representative_share"),
        ("default:max_cache_size=512", "Give it with --keep"),
        ("full:seed=1", "nothing is evicted"),
        ("defalt:seed=1", "unknown policy 'defalt'"),
    ],
)
def test_settings_that_a_policy_does_not_take_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        find_policy(text)


def test_a_plan_is_compared_with_single_precisions() -> None:
    found = make_configurations(["default"], [parse_keep("1/4")], [("u8", "u8"), None])
    names = [configuration.name for configuration in found]
    assert names == ["full cache u8/u8", "default 1/4 u8/u8", "full cache", "default 1/4"]


def test_a_precision_is_that_of_keys_and_values() -> None:
    config = Configuration(FULL, "paged", None, ("u8", "u4")).cache_config(0, None)
    assert config == KVCacheConfig(key_cache_precision="u8", value_cache_precision="u4")


@pytest.mark.parametrize(("text", "keep"), [("1/4", "1/4"), ("0.25", "1/4"), ("1/3", "1/3")])
def test_a_part_is_a_fraction_or_a_decimal(text: str, keep: str) -> None:
    assert parse_keep(text) == Fraction(keep)


@pytest.mark.parametrize("text", ["0", "1", "2", "1/0", "-1/4", "a quarter", "nan", ""])
def test_what_is_not_a_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a part of the tokens"):
        parse_keep(text)


def test_precisions_are_pairs_that_the_plugin_takes() -> None:
    assert parse_precision("u8/u4") == ("u8", "u4")
    assert parse_precision("exported") is None
    with pytest.raises(ConfigError, match="is not KEY/VALUE"):
        parse_precision("u8")
    with pytest.raises(ConfigError, match="cannot hold"):
        parse_precision("u8/f32")
