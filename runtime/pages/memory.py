"""The bytes behind the pages: address space reserved once, memory that comes and goes with use.

The plugin binds one tensor a layer for keys and one for values and writes into them in place. They
lie in anonymous memory maps: the operating system backs a page when it is first written, and takes
it back when the pool frees it.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, CacheLayout

_CAN_RETURN = hasattr(mmap.mmap, "madvise") and hasattr(mmap, "MADV_DONTNEED")


class CacheMemory:
    """Keys and values of one layer.

    Attributes:
        layout: bytes of a page.
        keys: ``[pages, H, key bytes of a head]`` uint8 view.
        values: ``[pages, H, 32, row bytes]`` uint8 view.
        key_tensor: the same memory for the plugin.
        value_tensor: likewise.
    """

    def __init__(
        self,
        layout: CacheLayout,
        num_pages: int,
        key_port: ov.ConstOutput,
        value_port: ov.ConstOutput,
    ) -> None:
        self.layout = layout
        self._key_map = _reserve(num_pages * layout.key_page_bytes)
        self._value_map = _reserve(num_pages * layout.value_page_bytes)
        heads = layout.num_kv_heads
        keys, self.key_tensor = _bind(self._key_map, num_pages, key_port)
        values, self.value_tensor = _bind(self._value_map, num_pages, value_port)
        self.keys: NDArray[np.uint8] = keys.reshape(num_pages, heads, layout.key_head_bytes)
        self.values: NDArray[np.uint8] = values.reshape(
            num_pages, heads, PAGE_SIZE, layout.value_row_bytes
        )

    def copy_page(self, source: int, target: int) -> None:
        """Copy the whole of one page onto another."""
        self.keys[target] = self.keys[source]
        self.values[target] = self.values[source]

    def copy_keys(self, pages: Sequence[int], num_tokens: int) -> NDArray[np.uint8]:
        """A copy of ``keys`` at ``pages``, which ``num_tokens`` fill from the front.

        The rows behind them are zero: what lies there may be of another sequence.
        """
        keys = self.keys[list(pages)]
        rows = num_tokens - (len(pages) - 1) * PAGE_SIZE
        keys[-1:, :, self.layout.key_header_bytes + rows * self.layout.key_row_bytes :] = 0
        return keys

    def copy_values(self, pages: Sequence[int], num_tokens: int) -> NDArray[np.uint8]:
        """The same of ``values``."""
        values = self.values[list(pages)]
        values[-1:, :, num_tokens - (len(pages) - 1) * PAGE_SIZE :] = 0
        return values

    def give_back(self, pages: Sequence[int]) -> None:
        """Tell the operating system that the content of ``pages`` is no longer needed.

        Where it will not hear, the memory stays with the process until the pages are used again.
        """
        if not _CAN_RETURN:
            return
        with suppress(OSError, MemoryError):
            for first, count in _runs(sorted(pages)):
                _discard(self._key_map, first, count, self.layout.key_page_bytes)
                _discard(self._value_map, first, count, self.layout.value_page_bytes)


def _reserve(num_bytes: int) -> mmap.mmap:
    try:
        if hasattr(mmap, "MAP_PRIVATE"):
            return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return mmap.mmap(-1, num_bytes)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"cannot reserve {num_bytes / 1e6:,.0f} MB for a part of the KV cache: {error}",
            "Give a smaller pool_size.",
        ) from error


def _bind(
    memory: mmap.mmap, num_pages: int, port: ov.ConstOutput
) -> tuple[NDArray[np.uint8], ov.Tensor]:
    data = np.frombuffer(memory, np.uint8)
    shape = [num_pages, *(d.get_length() for d in list(port.partial_shape)[1:])]
    kind = port.element_type
    typed = data if kind.bitwidth < 8 or kind == ov.Type.bf16 else data.view(kind.to_dtype())
    tensor = ov.Tensor(typed, ov.Shape(shape), kind)
    if tensor.byte_size != data.nbytes:
        raise RuntimeError(f"the plugin's cache takes {tensor.byte_size} bytes, not {data.nbytes}")
    return data, tensor


def _runs(pages: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for page in pages:
        if runs and page == runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((page, 1))
    return runs


def _discard(memory: mmap.mmap, first: int, count: int, page_bytes: int) -> None:
    # Only the operating system's pages that lie wholly inside the run.
    unit = mmap.PAGESIZE
    begin = -(-first * page_bytes // unit) * unit
    end = (first + count) * page_bytes // unit * unit
    if end > begin:
        memory.madvise(mmap.MADV_DONTNEED, begin, end - begin)
