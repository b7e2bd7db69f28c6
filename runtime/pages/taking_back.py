"""Keys that were written for tokens that never were, taken out of the page where true ones lie.

Quantized keys share a scale and a zero point per channel of a page, and the plugin widens them for
whatever it writes: a token that is taken back would leave the others in coarser steps for ever. So
the page is made anew of what it held before, byte for byte, and of the true tokens that came.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.pages.jit import compile_by_call, jit
from ov_kvcrush.runtime.pages.key_codec import KEY_KINDS, U8, Bytes, read_keys, write_keys
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.pages.memory import CacheMemory


class OpenPage:
    """The keys of one layer's page into which the next tokens go, as they were.

    Args:
        memory: of the layer.
        pages: of a sequence, in the order of its tokens, that no one else owns where it writes.
        length: tokens in them.
    """

    def __init__(self, memory: CacheMemory, pages: Sequence[int], length: int) -> None:
        self._memory = memory
        self._pages = pages
        self._length = length
        self._kind = KEY_KINDS[memory.layout.key_type]
        # Values, and keys that are not quantized, lie there each for itself.
        self._keys: NDArray[np.uint8] | None = None
        if memory.layout.key_header_bytes and length % PAGE_SIZE:
            self._keys = memory.keys[pages[length // PAGE_SIZE]].copy()

    def take_back(self, count: int, num_true: int) -> None:
        """Make the page anew where it holds some of the ``count`` tokens that came, and not all.

        Args:
            count: tokens that have been written.
            num_true: how many of them, the first ones, are to stay.
        """
        end = self._length + num_true
        rows = end % PAGE_SIZE
        if num_true == count or not rows or not self._memory.layout.key_header_bytes:
            return
        place = end // PAGE_SIZE
        page = self._memory.keys[self._pages[place]]
        size = self._memory.layout.key_head_size
        if place == self._length // PAGE_SIZE and self._keys is not None:
            make_anew(page, self._keys, self._length % PAGE_SIZE, rows, self._kind, size)
        else:
            make_anew(page, page, 0, rows, self._kind, size)


def compile_taking_back() -> None:
    """Compile what makes pages anew, before anybody waits for an answer.

    Seconds the first time; from then on Numba has it on disk, if there is a place for it.
    """
    page = np.zeros((1, 9 * PAGE_SIZE), np.uint8)
    told = "compiled the loop that takes drafts back: only once here"
    compile_by_call(make_anew, page, page.copy(), 1, 2, U8, 4, told=told)


@jit
def make_anew(
    page: Bytes, before: Bytes, num_before: int, rows: int, kind: int, head_size: int
) -> None:
    """Make the keys of ``page`` those of ``before`` and some that came.

    What lay there before keeps its bytes, unless a key that came lies outside the range of a
    channel's scale: then that channel is quantized anew.

    Args:
        page: ``[H, bytes]``, changed in place; holds all of them.
        before: the same page when it held ``num_before`` keys.
        num_before: of ``rows``, the first ones.
        rows: keys that stay.
        kind: storage type of the keys, one of ``KEY_KINDS``.
        head_size: elements of a key.
    """
    keys = np.empty((PAGE_SIZE, head_size), np.float32)
    for h in range(len(page)):
        read_keys(page[h], kind, rows, head_size, keys)
        if num_before:
            read_keys(before[h], kind, num_before, head_size, keys)
            for i in range(page.shape[1]):
                page[h, i] = before[h, i]
        write_keys(keys, rows, head_size, kind, page[h], num_before > 0)
