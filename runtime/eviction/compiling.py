"""Compiles the loops of a policy before anybody waits for an answer, and says so where it takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.eviction.measuring import (
    attention_mass,
    attention_peaks,
    key_distinctiveness,
)
from ov_kvcrush.runtime.eviction.moving import move_tokens, place
from ov_kvcrush.runtime.pages.jit import compile_by_call
from ov_kvcrush.runtime.pages.key_codec import KEY_KINDS
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, CacheLayout
from ov_kvcrush.runtime.pages.rows import put_in_rows, take_in_rows

_KIND = KEY_KINDS["u8"]


def compile_loops(attention: bool, distinctiveness: bool) -> None:
    """Compile what moves tokens, and what measures their attention or distinctiveness if wanted.

    Seconds the first time; from then on Numba has them on disk, if there is a place for them.
    """
    layout, keys = _two_pages()
    kind, head_size = _KIND, layout.key_head_size
    values = np.zeros((2, 1, PAGE_SIZE, layout.value_row_bytes), np.uint8)
    table = np.arange(2, dtype=np.int32)
    sources = np.array([[0, 3, 35]], np.int32)
    queries = np.zeros((1, 1, head_size), np.float32)
    length = PAGE_SIZE + 8

    told = "compiling the loops that cut the KV cache: a few seconds, and only once here"
    compile_by_call(place, sources, 1, told=told)
    # What a sequence holds is the whole of an array or a part of it, which Numba tells apart.
    scores, places = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.int32)
    for held in (scores, scores[:, :2], places, places[:, :2]):
        compile_by_call(take_in_rows, held, places)
    compile_by_call(take_in_rows, scores, places[:, :2])
    compile_by_call(put_in_rows, sources, np.arange(3, dtype=np.int32)[None])
    compile_by_call(move_tokens, keys, kind, values, table, table, sources, head_size)
    if attention:
        compile_by_call(attention_mass, queries, 1.0, keys, kind, table, length)
    if distinctiveness:
        compile_by_call(key_distinctiveness, keys, kind, table, length, head_size)


def compile_peaks() -> None:
    """Compile what finds the highest attention that a second reading pays; as ``compile_loops``."""
    layout, keys = _two_pages()
    queries = np.zeros((1, 1, layout.key_head_size), np.float32)
    table, length = np.arange(2, dtype=np.int32), PAGE_SIZE + 8
    weights, peaks = np.zeros(1, np.float32), np.zeros((1, PAGE_SIZE), np.float32)
    arguments = queries, 1.0, keys, _KIND, table, length, weights, peaks, 1
    told = "compiled the loop that measures second readings: only once here"
    compile_by_call(attention_peaks, *arguments, told=told)


def _two_pages() -> tuple[CacheLayout, NDArray[np.uint8]]:
    """A layout, and keys in it; one compilation serves every storage type."""
    geometry = LayerGeometry(1, 1, 4, 4)
    layout = CacheLayout.of(geometry, LayerPrecision("u8", "u8"))
    return layout, np.zeros((2, 1, layout.key_page_bytes), np.uint8)
