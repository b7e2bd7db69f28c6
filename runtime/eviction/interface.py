"""What an engine asks of eviction, and the answers where nothing is ever evicted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Sequence


class Eviction(ABC):
    """Keeps each sequence within its budget, between two inferences.

    Attributes:
        window_size: queries of the newest tokens that a cut looks through.
        accumulates: whether :meth:`accumulate` is to be called after every inference.
    """

    window_size: int
    accumulates: bool

    @abstractmethod
    def prepare(self, num_tokens: int) -> None:
        """Begin to have ready, on another thread, what the first cut would have to wait for.

        Args:
            num_tokens: that a sequence is going to hold; nothing happens where these are few.
        """

    @abstractmethod
    def accumulate(self, sequence: Sequence, queries: SequenceOf[NDArray[np.float32]]) -> None:
        """Add the attention of the newest tokens to what their layers have accumulated.

        Args:
            sequence: its newest tokens are in the cache.
            queries: of all of them, by layer ``[n, Hq * D]``.
        """

    @abstractmethod
    def compress(self, sequence: Sequence, cache: KVCache) -> bool:
        """Cut ``sequence`` if it is due, and give back every page it no longer needs.

        Returns:
            False if it is due and shares pages with others in place of which none can be had: then
            it must give up its cache. The cut is still to come then.
        """


class NoEviction(Eviction):
    """Keeps everything."""

    window_size = 0
    accumulates = False

    def prepare(self, num_tokens: int) -> None:
        """Nothing is to come."""

    def accumulate(self, sequence: Sequence, queries: SequenceOf[NDArray[np.float32]]) -> None:
        """Nothing is measured."""

    def compress(self, sequence: Sequence, cache: KVCache) -> bool:
        """Nothing is cut."""
        return True
