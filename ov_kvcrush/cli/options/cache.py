"""The KV cache's flags: one for each field of ``KVCacheConfig``, the same in every command."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _About:
    """What the command line says of one setting.

    Attributes:
        help: a sentence; it ends in a colon where the choices follow.
        choices: what it may be; empty where it is not a word.
        unit: shown in place of the value.
        default: what the field's default means, where that is None.
        flag: its spelling, where that is not the field's.
        counts_always: without eviction too.
    """

    help: str
    choices: Collection[str] = ()
    unit: str | None = None
    default: str | None = None
    flag: str | None = None
    counts_always: bool = False


_SETTINGS = {
    "max_cache_size": _About(
        "All tokens that a cut keeps of a sequence; 0 evicts nothing.",
        unit="TOKENS",
        counts_always=True,
    ),
    "kv_budget_mb": _About(
        "Instead of it, MB of a sequence's cache: as many tokens as fit.",
        unit="MB",
        default="none",
        counts_always=True,
    ),
    "layer_budgets": _About(
        "How layers share it, or a number for each, with commas:", LAYER_BUDGETS
    ),
    "prefill_budget": _About(
        "Tokens kept while a prompt is read; 0 is all.",
        unit="TOKENS",
        default="1.5 times --max-cache-size",
    ),
    "start_size": _About("First tokens (attention sinks), never evicted.", unit="TOKENS"),
    "recent_size": _About("Last tokens, never evicted.", unit="TOKENS"),
    "granularity": _About("What is kept or evicted as a whole:", GRANULARITIES),
    "importance": _About("What makes a token important:", IMPORTANCE_METHODS),
    "window_size": _About("Last queries whose attention scores the tokens."),
    "kernel_size": _About("Width of the max-pooling over the scores; odd, 1 is none."),
    "representatives": _About(
        "How representatives of the evicted tokens are chosen:", REPRESENTATIVE_RULES
    ),
    "representative_share": _About(
        "Representatives' part of the budget between start and recent, 0 to 1."
    ),
    "prefill_representative_share": _About(
        "The same for cuts while a prompt is read.",
        default="1 for distinct, else --representative-share",
    ),
    "anchor": _About("What every token's signature is compared with:", ANCHORS),
    "signature_heads": _About("Heads that give a signature its bits:", SIGNATURE_HEADS),
    "signature_fraction": _About("Part of the tokens for which a head's bit is one."),
    # Beside --rng-seed a plain --seed would be taken for the sampler's.
    "seed": _About(
        "For what is random in importance, representatives and anchor.", flag="--selection-seed"
    ),
    "decode_slack": _About(
        "Growth past --max-cache-size before the cache is cut again.", unit="TOKENS"
    ),
    "key_cache_precision": _About(
        "Keys are stored as", KV_PRECISIONS, default="as exported", counts_always=True
    ),
    "value_cache_precision": _About(
        "Values are stored as", KV_PRECISIONS, default="as exported", counts_always=True
    ),
    "pool_size": _About(
        "Room for all sequences together.",
        unit="TOKENS",
        default="what the memory allows",
        counts_always=True,
    ),
    "prefix_caching": _About(
        "Prompts that begin alike share what is cached of it.", counts_always=True
    ),
}
"""By field of ``KVCacheConfig``; a field without an entry fails when this module is imported."""


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


def _declare_flag(name: str, kind: type, about: _About) -> Any:
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
    flags[_BOTH] = _declare_flag(_BOTH, str, _About("Keys and values alike:", KV_PRECISIONS))
    file = _About("JSON object of these settings by field name; flags override it.", unit="FILE")
    flags["config"] = _declare_flag("config", Path, file)
    return flags


cache_options = with_flags("kv_cache_config", _declare_flags(), read_cache_options)
"""Decorates a command that takes ``kv_cache_config``: its command line gets the cache flags."""
