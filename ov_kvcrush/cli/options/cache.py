"""The KV cache's flags: one for each field of ``KVCacheConfig``, the same in every command."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import typer

from ov_kvcrush.cli.options.flags import optional, with_flags
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.precisions import KV_PRECISIONS
from ov_kvcrush.setting import Setting, settings_of

_PANEL = "KV cache"
_BOTH = "kv_cache_precision"

_SETTINGS = settings_of(KVCacheConfig)


def read_cache_options(given: Mapping[str, Any]) -> KVCacheConfig:
    """The settings that the flags ``given`` by name add up to; they override ``--config``'s file.

    Raises:
        ConfigError: flags contradict each other or do nothing, or as ``KVCacheConfig``.
    """
    changes = dict(given)
    path = changes.pop("config", None)
    both = changes.pop(_BOTH, None)
    for name in ("key_cache_precision", "value_cache_precision") if both else ():
        if changes.setdefault(name, both) != both:
            raise ConfigError(
                f"{_flag(_BOTH)} {both} and {_flag(name)} {changes[name]} contradict each other",
                "Give the precision of both, or of keys and values one by one.",
            )
    base = KVCacheConfig.from_file(path) if path else KVCacheConfig()
    config = dataclasses.replace(base, **changes)
    idle = [name for name in changes if not _SETTINGS[name].counts_always]
    # Whoever says --max-cache-size 0 compares with the full cache and knows.
    if idle and not config.evicts and not path and "max_cache_size" not in changes:
        raise ConfigError(
            f"{_flag(idle[0])} does nothing: without a budget no token is evicted",
            "Add --max-cache-size TOKENS.",
        )
    return config


def spell_cache_options(config: KVCacheConfig) -> list[str]:
    """The flags that give ``config``, as words of a command line."""
    words: list[str] = []
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), _flag(field.name)
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            text = ",".join(f"{n:g}" for n in value) if isinstance(value, tuple) else str(value)
            words += [flag, text]
    return words


def parse_layer_budgets(text: str) -> str | tuple[float, ...]:
    """A name, or the numbers of a list with commas; what is neither is left to the config."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        return text
    return numbers


def _flag(name: str) -> str:
    about = _SETTINGS.get(name)
    return (about and about.flag) or "--" + name.replace("_", "-")


def _declare_flag(name: str, kind: type, about: Setting) -> Any:
    option: dict[str, Any] = {"help": about.help, "metavar": about.unit, "rich_help_panel": _PANEL}
    if about.choices:
        option["help"] = f"{about.help} {'|'.join(about.choices)}"
        option["metavar"] = "NAME"
    if about.default is not None:
        option["help"] += f" (default {about.default})"
    if name == "layer_budgets":
        option["parser"] = parse_layer_budgets
    elif about.choices:
        option["click_type"] = click.Choice(tuple(about.choices))
    flag = _flag(name)
    if kind is bool:
        flag = f"{flag}/{flag.replace('--', '--no-', 1)}"
    return optional(kind, typer.Option(flag, show_default=False, **option))


def _declare_flags() -> dict[str, Any]:
    types = get_type_hints(KVCacheConfig)
    flags: dict[str, Any] = {}
    for field in dataclasses.fields(KVCacheConfig):
        # str | None and int | None: a flag that is not given is None in any case
        kind = next(iter(get_args(types[field.name])), types[field.name])
        about = _SETTINGS[field.name]
        if about.default is None:
            default = field.default
            if isinstance(default, bool):
                default = "on" if default else "off"
            about = dataclasses.replace(about, default=str(default))
        flags[field.name] = _declare_flag(field.name, kind, about)
    flags[_BOTH] = _declare_flag(_BOTH, str, Setting("Keys and values alike:", KV_PRECISIONS))
    file = Setting("JSON object of these settings by field name; flags override it.", unit="FILE")
    flags["config"] = _declare_flag("config", Path, file)
    return flags


_SPELLING = {
    name: _flag(name)
    for name in (*_SETTINGS, "engine", "decode_precision", "context_length", "prompt_lookup")
}

cache_options = with_flags("kv_cache_config", _declare_flags(), read_cache_options, _SPELLING)
"""Decorates a command that takes ``kv_cache_config``: its command line gets the cache flags."""
