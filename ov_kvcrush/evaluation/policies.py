"""The policies that can be compared: settings by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ov_kvcrush.config_text import read_settings
from ov_kvcrush.errors import ConfigError, did_you_mean

FULL = "full"
"""The policy that evicts nothing; all others are measured by it."""

DEFAULT_POLICIES = ("default", "rank", "snapkv", "keydiff", "h2o")
FIDELITY_POLICIES = ("default", "snapkv-k7", "rank", "keydiff")
"""Without those that add up the attention of all queries, which takes longer than reading."""


@dataclass(frozen=True)
class Policy:
    """How a budget is spent.

    Attributes:
        settings: fields of ``KVCacheConfig``; of its sizes in tokens only start and recent.
        engine: name of the engine that runs it.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    engine: str = "paged"


def _alone(importance: str, **settings: Any) -> Policy:
    """An importance method without representatives, every layer alike."""
    alone = {"importance": importance, "representatives": "none", "layer_budgets": "uniform"}
    return Policy({**alone, **settings})


def _with_representatives(rule: str, share: float) -> Policy:
    """Representatives beside SnapKV, every layer alike."""
    return _alone("snapkv", kernel_size=31, representatives=rule, representative_share=share)


def _genai(**settings: Any) -> Policy:
    """openvino_genai's eviction: whole pages, SnapKV pooled over 7, nothing cut while reading."""
    fixed = {"granularity": "page", "kernel_size": 7, "prefill_budget": 0}
    return Policy({**_alone("snapkv").settings, **fixed, **settings}, engine="genai")


# What a name means is spelled out here, so that new defaults change "default" alone.
POLICIES: dict[str, Policy] = {
    FULL: Policy(),
    "default": Policy(),
    "uniform": Policy({"layer_budgets": "uniform"}),
    "adaptive": Policy({"layer_budgets": "adaptive"}),
    "snapkv": _alone("snapkv", kernel_size=31),
    "snapkv-k7": _alone("snapkv", kernel_size=7),
    # KVCrush as the paper has it, and its controls: what any other choice of as many gives.
    "rank": _with_representatives("rank", 0.25),
    "rank-random": _with_representatives("random", 0.25),
    "rank-even": _with_representatives("even", 0.25),
    "distinct": _with_representatives("distinct", 0.5),
    "bucket-distinct": _with_representatives("bucket_distinct", 0.5),
    "h2o": _alone("h2o"),
    "tova": _alone("tova"),
    "keydiff": _alone("keydiff"),
    "pyramidkv": _alone("pyramidkv", layer_budgets="auto"),
    "rkv": _alone("rkv"),
    "streaming": _alone("streaming"),
    "random": _alone("random"),
    "genai": _genai(),
    "genai-kvcrush": _genai(representatives="rank", representative_share=0.25),
}

# What a comparison gives to all of its policies alike.
_SHARED = {
    "max_cache_size": "--keep",
    "kv_budget_mb": "--keep",
    "prefill_budget": "--prefill-factor",
    "key_cache_precision": "--precision",
    "value_cache_precision": "--precision",
}


def find_policy(text: str) -> Policy:
    """The policy ``text`` names: ``NAME``, or ``NAME:FIELD=VALUE,...`` for other settings of it.

    Args:
        text: such as ``default:representative_share=0.75,window_size=32``. Values are JSON, or text
            that needs no quotes.

    Raises:
        ConfigError: an unknown name, a text that is not ``FIELD=VALUE``, a setting that all
            policies share, or as ``KVCacheConfig``.
    """
    name, colon, _ = text.partition(":")
    policy = POLICIES.get(name)
    if policy is None:
        raise ConfigError(f"unknown policy {name!r}", did_you_mean(name, POLICIES))
    if not colon:
        return policy
    if name == FULL:
        raise ConfigError(f"policy {text!r}: nothing can be set where nothing is evicted")
    return Policy(read_settings("policy", text, policy.settings, _SHARED), policy.engine)
