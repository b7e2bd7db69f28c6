"""openvino_genai's eviction: our settings in its own, and how many tokens it then keeps."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

from openvino_genai import (
    AggregationMode,
    CacheEvictionConfig,
    KVCrushAnchorPointMode,
    KVCrushConfig,
)

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, OVKVCrushWarning, UnsupportedError

_ANCHORS = {
    "alternate": KVCrushAnchorPointMode.ALTERNATING,
    "mean": KVCrushAnchorPointMode.MEAN,
    "ones": KVCrushAnchorPointMode.ONES,
    "random": KVCrushAnchorPointMode.RANDOM,
    "zeros": KVCrushAnchorPointMode.ZEROS,
}


@dataclass(frozen=True)
class GenaiEviction:
    """What openvino_genai keeps of a sequence, in tokens; whole blocks of ``block_size``.

    Its ``max_cache_size`` is all of this without the representatives.

    Attributes:
        start: first tokens.
        important: those its scores choose.
        representatives: those its KVCrush adds.
        recent: last tokens.
        window_size: queries of the prompt's end that score it.
        anchor: name of the vector that signatures are compared with.
        seed: for the ``random`` anchor.
        block_size: tokens that are kept or evicted together.
    """

    start: int
    important: int
    representatives: int
    recent: int
    window_size: int
    anchor: str
    seed: int
    block_size: int

    @classmethod
    def of(cls, config: KVCacheConfig, block_size: int) -> GenaiEviction:
        """What comes nearest to ``config``, which evicts: the same total, split in whole blocks.

        Raises:
            ConfigError: sizes that are not multiples of the block.
            UnsupportedError: a setting openvino_genai's eviction cannot obey.
        """
        _refuse_what_it_cannot_obey(config, block_size)
        _require_whole_blocks(config, block_size)
        middle = (config.max_cache_size - config.start_size - config.recent_size) // block_size
        share = 0.0 if config.representatives == "none" else config.representative_share
        representatives = round(share * middle)
        if representatives == middle:
            raise UnsupportedError(
                f"representative_share {config.representative_share} leaves none of the {middle} "
                "blocks between start and recent to importance, and openvino_genai wants one",
                "Lower representative_share, or raise max_cache_size."
                if config.representative_share < 1
                else "Lower representative_share.",
            )
        return cls(
            start=config.start_size,
            important=(middle - representatives) * block_size,
            representatives=representatives * block_size,
            recent=config.recent_size,
            window_size=config.window_size,
            anchor=config.anchor,
            seed=config.seed,
            block_size=block_size,
        )

    def to_genai(self) -> CacheEvictionConfig:
        """The same as openvino_genai takes it."""
        return CacheEvictionConfig(
            start_size=self.start,
            recent_size=self.recent,
            max_cache_size=self.start + self.important + self.recent,
            aggregation_mode=AggregationMode.SUM,
            apply_rotation=False,
            snapkv_window_size=self.window_size,
            kvcrush_config=KVCrushConfig(
                budget=self.representatives // self.block_size,
                anchor_point_mode=_ANCHORS[self.anchor],
                rng_seed=self.seed,
            ),
        )

    def describe(self) -> dict[str, Any]:
        """The sizes it works with, and what it has no setting for, as JSON values."""
        return {
            "start_tokens": self.start,
            "important_tokens": self.important,
            "representative_tokens": self.representatives,
            "recent_tokens": self.recent,
            "window_size": self.window_size,
            "kernel_size": 7,
            "signature": "positions in the page, heads summed",
            "decode_slack": self.block_size,
        }

    def kept(self, length: int) -> int:
        """Tokens left of ``length`` after a decode step.

        Representatives stay only where at least as many blocks are up for eviction at once: a
        sequence that outgrows the rest block by block never gets any.
        (tests/runtime/genai/test_genai_engine.py::test_the_blocks_it_keeps_are_those_we_report)
        """
        size = self.block_size
        if length < self.start + self.important + self.recent + size:
            return length
        evicted = (length // size * size) - self.start - self.important - self.recent
        if evicted >= self.representatives:
            evicted -= self.representatives
        return length - evicted


def in_place_of_defaults(config: KVCacheConfig, block_size: int) -> KVCacheConfig:
    """``config`` with openvino_genai's own values where it is at a default that cannot be obeyed.

    Nobody asked for a default, so it gives way; :func:`tell_what_gave_way` says so.
    """
    default = KVCacheConfig()
    changes = {
        name: instead
        for name, (allowed, _, instead) in _limits(block_size).items()
        if getattr(config, name) == getattr(default, name) not in allowed
    }
    return dataclasses.replace(config, **changes)


def tell_what_gave_way(asked: KVCacheConfig, config: KVCacheConfig) -> None:
    """Warn once of all in which ``config`` is not what was ``asked`` for."""
    before = asked.to_dict()
    changed = [
        f"{name} {value}" for name, value in config.to_dict().items() if value != before[name]
    ]
    if changed:
        warnings.warn(
            "openvino_genai's eviction cannot obey all of our defaults; its own count instead: "
            f"{', '.join(changed)}",
            OVKVCrushWarning,
            stacklevel=3,
        )


def _refuse_what_it_cannot_obey(config: KVCacheConfig, block_size: int) -> None:
    refused = [
        (f"{name} {getattr(config, name)!r} (it {does})", _advice(name, instead))
        for name, (allowed, does, instead) in _limits(block_size).items()
        if getattr(config, name) not in allowed
    ]
    for name in ("start_size", "recent_size"):
        if getattr(config, name) == 0:
            refused.append((f"{name} 0 (it wants a page at least)", _advice(name, block_size)))
    if refused:
        what, instead = zip(*refused, strict=True)
        raise UnsupportedError(
            f"openvino_genai's eviction does not do {', '.join(what)}",
            f"Give {', '.join(instead)}; or use the paged engine (engine='paged').",
        )


def _advice(name: str, instead: Any) -> str:
    if name == "kv_budget_mb":
        return "max_cache_size in place of kv_budget_mb"
    return f"no {name}" if instead is None else f"{name}={instead!r}"


def _require_whole_blocks(config: KVCacheConfig, block_size: int) -> None:
    for name in ("max_cache_size", "start_size", "recent_size"):
        value = getattr(config, name)
        if value % block_size:
            sizes = [size for size in config.multiples_near(name, block_size) if size]
            raise ConfigError(
                f"{name} {value} is not a multiple of the page size {block_size}, and "
                "openvino_genai evicts whole pages",
                f"Use {' or '.join(map(str, sizes))}." if sizes else "Raise max_cache_size.",
            )


def _limits(block_size: int) -> dict[str, tuple[tuple[Any, ...], str, Any]]:
    """What settings may be, what openvino_genai always does, and what to set instead.

    Where it has no setting, ours may be at its default, then without meaning, or at what it does.
    """
    default = KVCacheConfig()
    return {
        "granularity": (("page",), "evicts whole pages", "page"),
        "importance": (("snapkv",), "knows no other", "snapkv"),
        "kv_budget_mb": ((None,), "counts its budget in tokens", None),
        "layer_budgets": (("auto", "uniform"), "gives every layer the same", "uniform"),
        "prefill_budget": ((None, 0), "evicts nothing while a prompt is read", 0),
        "prefill_representative_share": (
            (None,),
            "evicts nothing while a prompt is read",
            None,
        ),
        "representatives": (("none", "rank"), "knows only rank and none", "rank"),
        "kernel_size": ((default.kernel_size, 7), "pools scores over 7 tokens", 7),
        "signature_heads": (
            (default.signature_heads,),
            "sums the heads' scores before it makes signatures",
            default.signature_heads,
        ),
        "signature_fraction": (
            (default.signature_fraction, 0.5),
            "sets the bits of the higher half",
            0.5,
        ),
        "decode_slack": (
            (default.decode_slack, block_size),
            "evicts as soon as another page is full",
            block_size,
        ),
    }
