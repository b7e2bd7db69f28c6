"""The engines that can take turns, by name, and the settings of ours that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ov_kvcrush.config_text import read_settings
from ov_kvcrush.errors import ConfigError, did_you_mean

OURS = "paged"
_TOTAL = "max_cache_size"

# What all engines get alike, and the flag that gives it.
_SHARED = {
    "kv_budget_mb": "--max-cache-size",
    "key_cache_precision": "--precision",
    "value_cache_precision": "--precision",
    "pool_size": "--pool-size",
    "prefix_caching": "",
}


@dataclass(frozen=True)
class Contestant:
    """An engine with a way to evict.

    Attributes:
        title: for people.
        needs_total: whether it takes part only where the cache has a total.
        settings: fields of ``KVCacheConfig`` beside the total, or with one of its own.
    """

    title: str
    needs_total: bool
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_own_total(self) -> bool:
        """Whether it is compared at equal answers, not at equal totals."""
        return _TOTAL in self.settings


def _genai(representatives: str) -> dict[str, Any]:
    """openvino_genai's eviction: whole pages, nothing cut while a prompt is read."""
    return {
        "granularity": "page",
        "kernel_size": 7,
        "prefill_budget": 0,
        "layer_budgets": "uniform",
        "representatives": representatives,
        "representative_share": 0.25,
    }


CONTESTANTS = {
    OURS: Contestant("ov-kvcrush", False),
    "genai": Contestant("openvino_genai", False),
    "genai-eviction": Contestant("openvino_genai, eviction", True, _genai("none")),
    "genai-kvcrush": Contestant("openvino_genai, KVCrush", True, _genai("rank")),
}
"""By the name that the command line has for them."""


def find_contestant(text: str) -> Contestant:
    """The contestant that ``text`` names: ``NAME``, or ``paged:FIELD=VALUE,...``.

    Args:
        text: such as ``paged:prefill_budget=928``. Values are JSON, or text that needs no quotes.
            With ``max_cache_size`` it takes part only where there is a total for the others.

    Raises:
        ConfigError: an unknown name or setting, one that all engines share, or settings of
            openvino_genai.
    """
    name, colon, settings = text.partition(":")
    contestant = CONTESTANTS.get(name)
    if contestant is None:
        raise ConfigError(f"unknown engine {name!r}", did_you_mean(name, CONTESTANTS))
    if not colon:
        return contestant
    if name != OURS:
        raise ConfigError(
            f"engine {text!r}: only ours, {OURS}, takes settings", "Leave them out here."
        )
    given = read_settings("engine", text, contestant.settings, _SHARED)
    return Contestant(f"{contestant.title} {settings}", _TOTAL in given, given)


def is_ours(text: str) -> bool:
    """Whether the engine that ``text`` names is ours, with whatever settings."""
    return text.partition(":")[0] == OURS
