"""The cache flags: as many as settings, over the file, and none without effect."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click
import pytest
import typer
from typer.main import get_command

from ov_kvcrush.cli.options.cache import cache_options, read_cache_options
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.selection import REPRESENTATIVE_RULES


def parse(*arguments: str) -> KVCacheConfig:
    """What a command that has the cache flags gets."""
    seen: list[KVCacheConfig] = []
    app = typer.Typer()

    @app.command()
    @cache_options
    def command(*, kv_cache_config: KVCacheConfig) -> None:
        seen.append(kv_cache_config)

    app(args=arguments, standalone_mode=False)
    return seen[0]


def test_every_setting_has_a_flag_of_its_name() -> None:
    app = typer.Typer()
    app.command()(cache_options(lambda *, kv_cache_config: None))
    flags = {name for option in get_command(app).params for name in option.opts}
    fields = {field.name for field in dataclasses.fields(KVCacheConfig)} - {"seed"}
    assert {"--" + name.replace("_", "-") for name in fields} | {"--selection-seed"} <= flags
    assert "--seed" not in flags  # it would be taken for the sampler's


def test_no_flags_give_the_defaults() -> None:
    assert parse() == KVCacheConfig()


def test_flags_of_every_kind_reach_their_settings() -> None:
    config = parse(
        *("--max-cache-size", "512", "--representative-share", "0.25", "--anchor", "random"),
        *("--selection-seed", "3", "--value-cache-precision", "u4", "--pool-size", "4096"),
    )
    assert config == KVCacheConfig(
        max_cache_size=512,
        representative_share=0.25,
        anchor="random",
        seed=3,
        value_cache_precision="u4",
        pool_size=4096,
    )


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("adaptive", "adaptive"), ("1,0.5,2", (1.0, 0.5, 2.0)), ("8", (8.0,))],
)
def test_layer_budgets_are_a_name_or_numbers(given: str, wanted: object) -> None:
    assert parse("--max-cache-size", "512", "--layer-budgets", given).layer_budgets == wanted


def test_head_budgets_can_be_switched_off() -> None:
    assert parse().head_budgets == "auto"
    assert parse("--max-cache-size", "512", "--head-budgets", "off").head_budgets == "off"
    with pytest.raises(click.BadParameter, match="'on' is not one of 'auto', 'off'"):
        parse("--max-cache-size", "512", "--head-budgets", "on")
    with pytest.raises(ConfigError, match="--head-budgets does nothing"):
        parse("--head-budgets", "off")


def test_layer_budgets_that_are_neither_are_refused() -> None:
    with pytest.raises(ConfigError, match="--layer-budgets 'adaptiv' is not known"):
        parse("--max-cache-size", "512", "--layer-budgets", "adaptiv")


def test_a_name_that_is_not_registered_is_refused_with_the_registered_ones() -> None:
    with pytest.raises(click.BadParameter) as caught:
        parse("--max-cache-size", "512", "--representatives", "best")
    assert all(name in str(caught.value) for name in REPRESENTATIVE_RULES)


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cache.json"
    file.write_text(json.dumps({"max_cache_size": 512, "recent_size": 128}))
    config = parse("--config", str(file), "--recent-size", "32")
    assert config == KVCacheConfig(max_cache_size=512, recent_size=32)


def test_one_precision_for_both() -> None:
    config = read_cache_options({"kv_cache_precision": "u4"})
    assert (config.key_cache_precision, config.value_cache_precision) == ("u4", "u4")


def test_precisions_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="--key-cache-precision u8 contradict"):
        read_cache_options({"kv_cache_precision": "u4", "key_cache_precision": "u8"})


def test_a_flag_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="--recent-size does nothing") as caught:
        parse("--recent-size", "32")
    assert "--max-cache-size" in caught.value.hint


def test_a_comparison_with_the_full_cache_keeps_the_other_flags() -> None:
    config = parse("--max-cache-size", "0", "--recent-size", "32")
    assert not config.evicts
    assert config.recent_size == 32
