"""How one layer's keys and values lie in a page of the CPU plugin's cache.

A page holds ``PAGE_SIZE`` tokens of every KV head. Quantized keys share a scale and a zero point
per channel of the page; quantized values carry theirs with each token. So a value moves by copying
its row, a key by rewriting the page it lands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision

PAGE_SIZE = 32
"""Tokens of a page on CPU (pinned by tests/runtime/model/test_paged_model.py)."""

_BITS = {"f32": 32, "bf16": 16, "u8": 8, "u4": 4}
_SCALE_AND_ZERO_BYTES = 8


@dataclass(frozen=True)
class CacheLayout:
    """Bytes of one layer's cache.

    Attributes:
        key_type: storage of key elements: ``f32``, ``bf16``, ``u8`` or ``u4``.
        num_kv_heads: KV heads side by side in a page.
        key_head_size: elements of a key.
        key_header_bytes: scales and zero points ahead of the keys of a head in a page.
        key_row_bytes: one key of one head.
        value_row_bytes: one value of one head with its scales and zero points.
    """

    key_type: str
    num_kv_heads: int
    key_head_size: int
    key_header_bytes: int
    key_row_bytes: int
    value_row_bytes: int

    @property
    def key_head_bytes(self) -> int:
        """Bytes of one head's keys in a page."""
        return self.key_header_bytes + PAGE_SIZE * self.key_row_bytes

    @property
    def key_page_bytes(self) -> int:
        """Bytes of a page of keys."""
        return self.num_kv_heads * self.key_head_bytes

    @property
    def value_page_bytes(self) -> int:
        """Bytes of a page of values."""
        return self.num_kv_heads * PAGE_SIZE * self.value_row_bytes

    @property
    def page_bytes(self) -> int:
        """Bytes of a page, keys and values."""
        return self.key_page_bytes + self.value_page_bytes

    @classmethod
    def of(cls, layer: LayerGeometry, precision: LayerPrecision) -> CacheLayout:
        """Layout the plugin gives ``layer`` when compiled for ``precision``."""
        key_bits, value_bits = _BITS[precision.key], _BITS[precision.value]
        groups = 0
        if value_bits <= 8:
            groups = layer.value_head_size // (precision.value_group_size or layer.value_head_size)
        return cls(
            key_type=precision.key,
            num_kv_heads=layer.num_kv_heads,
            key_head_size=layer.key_head_size,
            key_header_bytes=_SCALE_AND_ZERO_BYTES * layer.key_head_size if key_bits <= 8 else 0,
            key_row_bytes=layer.key_head_size * key_bits // 8,
            value_row_bytes=_SCALE_AND_ZERO_BYTES * groups
            + layer.value_head_size * value_bits // 8,
        )


def pages_for(tokens: int) -> int:
    """Pages that ``tokens`` tokens take."""
    return -(-tokens // PAGE_SIZE)


def page_bytes(layers: Sequence[LayerGeometry], precisions: Sequence[LayerPrecision]) -> int:
    """Bytes of one page in each of ``layers``, which are stored in ``precisions``, together."""
    layouts = map(CacheLayout.of, layers, precisions)
    return sum(layout.page_bytes for layout in layouts)


def kv_bytes_per_token(
    layers: Sequence[LayerGeometry], precisions: Sequence[LayerPrecision]
) -> float:
    """Bytes one token takes in the caches of ``layers``, with its share of each page's scales."""
    return page_bytes(layers, precisions) / PAGE_SIZE
