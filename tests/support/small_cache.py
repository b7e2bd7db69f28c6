"""A KV cache without a model: pages of numbers, for what is logic alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.pages.pool import PagePool
from ov_kvcrush.runtime.sequences.kv_cache import KVCache


class Slots:
    """The memory of one layer, a number for each slot; what nobody owns is forgotten."""

    def __init__(self, num_pages: int) -> None:
        self.pages = np.full((num_pages, PAGE_SIZE), -1)

    def copy_page(self, source: int, target: int) -> None:
        self.pages[target] = self.pages[source]

    def give_back(self, pages: list[int]) -> None:
        self.pages[pages] = -1


def small_cache(num_pages: int, page_bytes: Sequence[int]) -> KVCache:
    """``num_pages`` of each layer, as many layers as there are ``page_bytes``."""
    memories = [Slots(num_pages) for _ in page_bytes]
    pool = PagePool([num_pages] * len(page_bytes), page_bytes)
    return KVCache(pool, cast(list[CacheMemory], memories))


def slots_of(cache: KVCache) -> list[Slots]:
    """The memories of a :func:`small_cache`, by layer."""
    return cast(list[Slots], list(cache.memories))
