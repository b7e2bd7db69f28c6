"""What a cache will hold of a text, told by the model's KV plan: nothing is compiled or read."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets, goes_by_heads
from ov_kvcrush.runtime.eviction.cut_plan import stretch_between_cuts
from ov_kvcrush.runtime.pages.cache_layer import cache_layers, undivided
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, CacheLayout, pages_for
from ov_kvcrush.runtime.sequences.sequence import Cut
from ov_kvcrush.selection import group_all_heads

# More than any text has.
_ENDLESS = 2**40


class CacheForecast:
    """The cache of one sequence that is cut to a budget.

    Args:
        config: with a budget in tokens.
        layers: geometry by layer of the model.
        precisions: by layer of the model.
        head_shares: of the KV plan, by layer of the model; empty for none.

    Attributes:
        cache_layers: KV heads that share a cache. The engine leaves the few layers undivided whose
            attention has other inputs by head, which the plan does not tell.
    """

    def __init__(
        self,
        config: KVCacheConfig,
        layers: SequenceOf[LayerGeometry],
        precisions: SequenceOf[LayerPrecision],
        head_shares: SequenceOf[SequenceOf[float]],
    ) -> None:
        by_heads = goes_by_heads(config, head_shares)
        groups = group_all_heads(head_shares) if by_heads else undivided(layers)
        self.cache_layers = cache_layers(layers, groups)
        self._config = config
        self._budgets = CacheBudgets(config, self.cache_layers, head_shares)
        self._page_bytes = [
            CacheLayout.of(layer.geometry, precisions[layer.layer]).page_bytes
            for layer in self.cache_layers
        ]

    def held(self, tokens: int) -> list[int]:
        """By cache layer, tokens of each head when so many have been read and the cache was cut."""
        cut = Cut(tokens, self._config.max_cache_size)
        return self._budgets.left_by(cut, [tokens] * len(self.cache_layers))

    def num_bytes(self, tokens: int) -> float:
        """Bytes of :meth:`held`, whatever of a page is still free."""
        sizes = zip(self.held(tokens), self._page_bytes, strict=True)
        return sum(count * size for count, size in sizes) / PAGE_SIZE

    def most_bytes(self, longest: int = 0) -> int:
        """Bytes of the pages that it takes at most until the next cut, once a prompt is read.

        Args:
            longest: tokens of the longest text; 0 does not bound it.
        """
        return self._pages_behind(
            self._config.max_cache_size, self._config.decode_slack, longest or _ENDLESS
        )

    def most_bytes_while_read(self, chunk: int, longest: int = 0) -> int:
        """Bytes of the pages that it takes at most while a prompt is read.

        Args:
            chunk: most tokens of one inference.
            longest: tokens of the longest text; 0 does not bound it.
        """
        config = self._config
        stretch = stretch_between_cuts(config.max_cache_size, chunk)
        return self._pages_behind(config.tokens_kept_in_prefill, stretch, longest or _ENDLESS)

    def _pages_behind(self, budget: int, more: int, longest: int) -> int:
        """Bytes of the pages of what a cut to ``budget`` leaves, and so many tokens ``more``."""
        left = self._budgets.left_by(Cut(longest, budget), [longest] * len(self.cache_layers))
        pages = (pages_for(min(tokens + more, longest)) for tokens in left)
        return sum(count * size for count, size in zip(pages, self._page_bytes, strict=True))
