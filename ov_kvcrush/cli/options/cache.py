"""The KV cache's flags: one for each field of ``KVCacheConfig``, the same in every command."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import typer

from ov_kvcrush.cli.options.flags import optional, with_flags
from ov_kvcrush.config import GRANULARITIES, KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.precisions import KV_PRECISIONS
from ov_kvcrush.selection import (
    ANCHORS,
    IMPORTANCE_METHODS,
    LAYER_BUDGETS,
    REPRESENTATIVE_RULES,
    SIGNATURE_HEADS,
)

_PANEL = "KV cache"
_BOTH = "kv_cache_precision"

_HELP = {
    "max_cache_size": "All tokens that a cut keeps of a sequence; 0 evicts nothing.",
    "kv_budget_mb": "Instead of it, MB of a sequence's cache: as many tokens as fit.",
    "layer_budgets": "How layers share it, or a number for each, with commas:",
    "prefill_budget": "Tokens kept while a prompt is read; 0 is all.",
    "start_size": "First tokens (attention sinks), never evicted.",
    "recent_size": "Last tokens, never evicted.",
    "granularity": "What is kept or evicted as a whole:",
    "importance": "What makes a token important:",
    "window_size": "Last queries whose attention scores the tokens.",
    "kernel_size": "Width of the max-pooling over the scores; odd, 1 is none.",
    "representatives": "How representatives of the evicted tokens are chosen:",
    "representative_share": "Representatives' part of the budget between start and recent, 0 to 1.",
    "prefill_representative_share": "The same for cuts while a prompt is read.",
    "anchor": "What every token's signature is compared with:",
    "signature_heads": "Heads that give a signature its bits:",
    "signature_fraction": "Part of the tokens for which a head's bit is one.",
    "seed": "For what is random in importance, representatives and anchor.",
    "decode_slack": "Growth past --max-cache-size before the cache is cut again.",
    "key_cache_precision": "Keys are stored as",
    "value_cache_precision": "Values are stored as",
    "pool_size": "Room for all sequences together.",
    "prefix_caching": "Prompts that begin alike share what is cached of it.",
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "granularity": GRANULARITIES,
    "importance": tuple(IMPORTANCE_METHODS),
    "layer_budgets": LAYER_BUDGETS,
    "representatives": tuple(REPRESENTATIVE_RULES),
    "anchor": tuple(ANCHORS),
    "signature_heads": tuple(SIGNATURE_HEADS),
    "key_cache_precision": KV_PRECISIONS,
    "value_cache_precision": KV_PRECISIONS,
    _BOTH: KV_PRECISIONS,
}
_IN_TOKENS = (
    "max_cache_size",
    "prefill_budget",
    "start_size",
    "recent_size",
    "decode_slack",
    "pool_size",
)
# What the default None of a field means.
_DEFAULTS = {
    "key_cache_precision": "as exported",
    "value_cache_precision": "as exported",
    "pool_size": "what the memory allows",
    "kv_budget_mb": "none",
    "prefill_budget": "1.5 times --max-cache-size",
    "prefill_representative_share": "1 for distinct, else --representative-share",
}
# Beside --rng-seed a plain --seed would be taken for the sampler's.
_SPELLED = {"seed": "--selection-seed"}
# These count without eviction too.
_ALWAYS_USED = (
    "max_cache_size",
    "kv_budget_mb",
    "key_cache_precision",
    "value_cache_precision",
    "pool_size",
    "prefix_caching",
)


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
    idle = [name for name in changes if name not in _ALWAYS_USED]
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
    return _SPELLED.get(name, "--" + name.replace("_", "-"))


def _declare_flag(name: str, kind: type, help_text: str, metavar: str | None) -> Any:
    option: dict[str, Any] = {"help": help_text, "metavar": metavar, "rich_help_panel": _PANEL}
    if name == "layer_budgets":
        option["parser"] = parse_layer_budgets
    elif name in _CHOICES:
        option["click_type"] = click.Choice(_CHOICES[name])
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
        help_text, metavar = _HELP[field.name], None
        if field.name in _CHOICES:
            help_text, metavar = f"{help_text} {'|'.join(_CHOICES[field.name])}", "NAME"
        elif field.name in _IN_TOKENS:
            metavar = "TOKENS"
        elif field.name == "kv_budget_mb":
            metavar = "MB"
        default = _DEFAULTS.get(field.name, field.default)
        if isinstance(default, bool):
            default = "on" if default else "off"
        flags[field.name] = _declare_flag(
            field.name, kind, f"{help_text} (default {default})", metavar
        )
    both = f"Keys and values alike: {'|'.join(KV_PRECISIONS)}"
    flags[_BOTH] = _declare_flag(_BOTH, str, both, "NAME")
    file = "JSON object of these settings by field name; flags override it."
    flags["config"] = _declare_flag("config", Path, file, "FILE")
    return flags


cache_options = with_flags("kv_cache_config", _declare_flags(), read_cache_options)
"""Decorates a command that takes ``kv_cache_config``: its command line gets the cache flags."""
