"""Compiles the loops of a policy before anybody waits for an answer, and says so where it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

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
from ov_kvcrush.runtime.pages.jit import times_compiled
from ov_kvcrush.runtime.pages.key_codec import KEY_KINDS
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, CacheLayout
from ov_kvcrush.runtime.pages.rows import put_in_rows, take_in_rows

_log = logging.getLogger("ov_kvcrush")

# Loops that call one another, each of which may fail to be kept.
_MOST_FAILURES = 20

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

    before = times_compiled(place)
    _call(place, sources, 1)
    if times_compiled(place) > before:
        _log.warning("compiling the loops that cut the KV cache: a few seconds, and only once here")
    # What a sequence holds is the whole of an array or a part of it, which Numba tells apart.
    scores, places = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.int32)
    for held in (scores, scores[:, :2], places, places[:, :2]):
        _call(take_in_rows, held, places)
    _call(take_in_rows, scores, places[:, :2])
    _call(put_in_rows, sources, np.arange(3, dtype=np.int32)[None])
    _call(move_tokens, keys, kind, values, table, table, sources, head_size)
    if attention:
        _call(attention_mass, queries, 1.0, keys, kind, table, length)
    if distinctiveness:
        _call(key_distinctiveness, keys, kind, table, length, head_size)


def compile_peaks() -> None:
    """Compile what finds the highest attention that a second reading pays; as ``compile_loops``."""
    layout, keys = _two_pages()
    queries = np.zeros((1, 1, layout.key_head_size), np.float32)
    table, length = np.arange(2, dtype=np.int32), PAGE_SIZE + 8
    weights, peaks = np.zeros(1, np.float32), np.zeros((1, PAGE_SIZE), np.float32)
    before = times_compiled(attention_peaks)
    _call(attention_peaks, queries, 1.0, keys, _KIND, table, length, weights, peaks, 1)
    if times_compiled(attention_peaks) > before:
        _log.warning("compiled the loop that measures second readings: only once here")


def _two_pages() -> tuple[CacheLayout, NDArray[np.uint8]]:
    """A layout, and keys in it; one compilation serves every storage type."""
    geometry = LayerGeometry(1, 1, 4, 4)
    layout = CacheLayout.of(geometry, LayerPrecision("u8", "u8"))
    return layout, np.zeros((2, 1, layout.key_page_bytes), np.uint8)


def _call(loop: Callable[..., Any], *arguments: Any) -> None:
    """Call ``loop``, which compiles it, whether or not there is room to keep what was compiled."""
    for _ in range(_MOST_FAILURES):
        try:
            loop(*arguments)
            return
        except OSError as error:  # the disk is full, for instance; it has been compiled
            _log.info("compiled loops cannot be kept: %s", error)
    loop(*arguments)
