"""What a side is made of, and the cache settings that give each the same total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ov_kvcrush.benchmark.contestants import find_contestant, is_ours
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.precisions import SAME
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE

LEAST_BUDGET = 224
"""Tokens of the smallest total: below it ours, which may grow by its slack, has nothing to choose
between the first and the last tokens."""


@dataclass(frozen=True)
class SideSetup:
    """What a side is made of; it can be sent to another process.

    Attributes:
        engine: as ``find_contestant`` takes it.
        model_dir: exported model.
        device: name of the device.
        max_cache_size: the most tokens of a sequence that a cache may hold behind its prompt,
            whoever keeps it; 0 for all.
        precision: of keys and of values; None is as exported.
        pool_size: tokens that the page pool holds.
        num_threads: processors it may run on.
        max_num_batched_tokens: of one inference.
        max_num_seqs: sequences that run at once.
        properties: of the plugin.
        decode_precision: of our engine, as ``LLMPipeline`` has it.
        prompt_lookup: likewise.
        shares_prefixes: whether prompts may begin alike, so that it is worth while to look for what
            others have read.
    """

    engine: str
    model_dir: Path
    device: str
    max_cache_size: int
    precision: tuple[str, str] | None
    pool_size: int
    num_threads: int
    max_num_batched_tokens: int
    max_num_seqs: int
    properties: Mapping[str, str] = field(default_factory=dict)
    decode_precision: str = SAME
    prompt_lookup: int = 0
    shares_prefixes: bool = False

    @property
    def evicts(self) -> bool:
        """Whether its cache is ever cut."""
        return self.max_cache_size > 0 and self.engine != "genai"

    @property
    def title(self) -> str:
        """For people: engine and total."""
        contestant = find_contestant(self.engine)
        shows_total = self.evicts and not contestant.has_own_total
        return contestant.title + (f", {self.max_cache_size:,} tokens" if shows_total else "")

    def cache_config(self) -> KVCacheConfig:
        """What its cache may hold."""
        key, value = self.precision or (None, None)
        config = KVCacheConfig(
            pool_size=self.pool_size,
            prefix_caching=self.shares_prefixes,
            key_cache_precision=key,
            value_cache_precision=value,
        )
        if not self.evicts:
            return config
        contestant = find_contestant(self.engine)
        config = KVCacheConfig.from_dict(
            config.to_dict() | {"max_cache_size": self.max_cache_size} | dict(contestant.settings)
        )
        if not is_ours(self.engine) or contestant.has_own_total:
            return config
        # openvino_genai's cache grows by a page past its total before it is cut, ours by its slack.
        # So ours is cut to less: neither ever holds more than the other may.
        slack = config.decode_slack - PAGE_SIZE
        return replace(config, max_cache_size=config.max_cache_size - slack)


def require_budget(max_cache_size: int) -> None:
    """Refuse a total that not every side can keep.

    Raises:
        ConfigError: it is too small, or not whole pages, which openvino_genai evicts.
    """
    if max_cache_size and (max_cache_size < LEAST_BUDGET or max_cache_size % PAGE_SIZE):
        raise ConfigError(
            f"--max-cache-size {max_cache_size} is not a total that every engine can keep to",
            f"Give a multiple of {PAGE_SIZE} from {LEAST_BUDGET} on, or 0 to evict nothing.",
        )
