"""The fused loops against plain NumPy, in every storage type."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.eviction.measuring import (
    attention_mass,
    attention_peaks,
    key_distinctiveness,
)
from ov_kvcrush.runtime.eviction.moving import move_tokens, place
from ov_kvcrush.runtime.pages import key_codec
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, CacheLayout

Floats = NDArray[np.float32]

KV_HEADS, GROUP, HEAD_SIZE = 3, 2, 16
KINDS = pytest.mark.parametrize("kind", ["f32", "bf16", "u8", "u4"])


class Layer:
    """Random keys and values written to scattered pages, and what can be read back from them."""

    def __init__(self, kind: str, length: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        num_pages = -(-length // PAGE_SIZE)
        geometry = LayerGeometry(KV_HEADS * GROUP, KV_HEADS, HEAD_SIZE, HEAD_SIZE)
        self.layout = CacheLayout.of(geometry, LayerPrecision(kind, kind))
        self.kind, self.length = key_codec.KEY_KINDS[kind], length
        self.table = rng.permutation(num_pages + 3)[:num_pages].astype(np.int32)
        exact = rng.standard_normal((KV_HEADS, num_pages * PAGE_SIZE, HEAD_SIZE))
        self.keys = np.zeros((num_pages + 3, KV_HEADS, self.layout.key_head_bytes), np.uint8)
        self.values = rng.integers(
            0, 256, (num_pages + 3, KV_HEADS, PAGE_SIZE, self.layout.value_row_bytes)
        ).astype(np.uint8)
        for n, page in enumerate(self.table):
            for head in range(KV_HEADS):
                rows = exact[head, n * PAGE_SIZE : (n + 1) * PAGE_SIZE].astype(np.float32)
                key_codec.write_keys(rows, PAGE_SIZE, HEAD_SIZE, self.kind, self.keys[page, head])

    def read_keys(self, length: int | None = None) -> Floats:
        """``[H, length, D]`` as the cache holds them."""
        length = self.length if length is None else length
        tile = np.empty((PAGE_SIZE, HEAD_SIZE), np.float32)
        out = np.empty((KV_HEADS, -(-length // PAGE_SIZE) * PAGE_SIZE, HEAD_SIZE), np.float32)
        for n in range(out.shape[1] // PAGE_SIZE):
            for head in range(KV_HEADS):
                key_codec.read_keys(
                    self.keys[self.table[n], head], self.kind, PAGE_SIZE, HEAD_SIZE, tile
                )
                out[head, n * PAGE_SIZE : (n + 1) * PAGE_SIZE] = tile
        return out[:, :length]

    def move(self, sources: NDArray[np.int32], targets: NDArray[np.int32] | None = None) -> None:
        targets = self.table if targets is None else targets
        move_tokens(self.keys, self.kind, self.values, self.table, targets, sources, HEAD_SIZE)

    def steps(self, number: int) -> Floats:
        """``[H, D]`` the scales of the sequence's page ``number``."""
        return np.array(self.keys[self.table[number], :, : 4 * HEAD_SIZE]).view(np.float32)

    def read_values(self, length: int) -> NDArray[np.uint8]:
        """``[H, length, bytes]``."""
        rows = [self.values[self.table[t // PAGE_SIZE], :, t % PAGE_SIZE] for t in range(length)]
        return np.stack(rows, axis=1)


@KINDS
@pytest.mark.parametrize(("num_rows", "stride"), [(1, 1), (70, 1), (64, 2), (67, 3)])
def test_attention_peaks_are_the_highest_of_any_query(
    kind: str, num_rows: int, stride: int
) -> None:
    known, length = 45, 45 + 7 + num_rows * stride
    layer = Layer(kind, length)
    rng = np.random.default_rng(1)
    shape = (num_rows, KV_HEADS * GROUP, HEAD_SIZE)
    queries = (3 * rng.standard_normal(shape)).astype(np.float32)
    weights = rng.standard_normal(num_rows).astype(np.float32)
    peaks = np.full((KV_HEADS * GROUP, known), -3.0, np.float32)
    attention_peaks(
        queries, 0.3, layer.keys, layer.kind, layer.table, length, weights, peaks, stride
    )
    products = np.einsum("whd,hsd->hws", queries, layer.read_keys().repeat(GROUP, axis=0)) * 0.3
    for w in range(num_rows):
        products[:, w, length - (num_rows - 1 - w) * stride :] = -np.inf
    paid = np.exp(products - products.max(axis=2, keepdims=True))
    paid /= paid.sum(axis=2, keepdims=True)
    wanted = (np.log(paid[:, :, :known]) + weights[:, None]).max(axis=1)
    np.testing.assert_allclose(peaks, np.maximum(wanted, -3.0), atol=1e-4)


@KINDS
@pytest.mark.parametrize(
    ("length", "window"), [*product([5, 32, 70], [1, 4]), (32, 16), (70, 16), (70, 35)]
)
def test_attention_mass_is_softmax_attention(kind: str, length: int, window: int) -> None:
    layer = Layer(kind, length)
    shape = (window, KV_HEADS * GROUP, HEAD_SIZE)
    queries = (3 * np.random.default_rng(1).standard_normal(shape)).astype(np.float32)
    mass = attention_mass(queries, 0.3, layer.keys, layer.kind, layer.table, length)
    products = np.einsum("whd,hsd->hws", queries, layer.read_keys().repeat(GROUP, axis=0)) * 0.3
    for w in range(window):
        products[:, w, length - window + w + 1 :] = -np.inf
    weights = np.exp(products - products.max(axis=2, keepdims=True))
    expected = (weights / weights.sum(axis=2, keepdims=True)).sum(axis=1)
    np.testing.assert_allclose(mass, expected, rtol=1e-4, atol=1e-6)


def test_attention_mass_survives_huge_products() -> None:
    layer = Layer("f32", 40)
    queries = np.full((2, KV_HEADS * GROUP, HEAD_SIZE), 1e4, np.float32)
    mass = attention_mass(queries, 1.0, layer.keys, layer.kind, layer.table, 40)
    np.testing.assert_allclose(mass.sum(axis=1), 2.0, rtol=1e-5)


@KINDS
def test_key_distinctiveness_is_minus_the_cosine_to_the_mean(kind: str) -> None:
    layer = Layer(kind, 70)
    distinct = key_distinctiveness(layer.keys, layer.kind, layer.table, 70, HEAD_SIZE)
    keys = layer.read_keys().astype(np.float64)
    mean = keys.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(keys, axis=2) * np.linalg.norm(mean, axis=2)
    np.testing.assert_allclose(distinct, -(keys * mean).sum(axis=2) / norms, rtol=1e-3, atol=1e-5)


@KINDS
def test_kept_tokens_move_to_the_front_each_head_its_own(kind: str) -> None:
    layer = Layer(kind, 120)
    rng = np.random.default_rng(2)
    kept = np.stack([np.sort(rng.permutation(120)[:70]) for _ in range(KV_HEADS)]).astype(np.int32)
    keys, values = layer.read_keys(), layer.read_values(120)
    layer.move(kept)
    wanted_keys = np.take_along_axis(keys, kept[:, :, None], axis=1)
    wanted_values = np.take_along_axis(values, kept[:, :, None], axis=1)
    np.testing.assert_array_equal(layer.read_values(70), wanted_values)
    found = layer.read_keys(70)
    if kind in ("f32", "bf16"):
        np.testing.assert_array_equal(found, wanted_keys)
        return
    # A page is quantized by channel: off by half a step of that page at most.
    for n, first in enumerate(range(0, 70, PAGE_SIZE)):
        page = wanted_keys[:, first : first + PAGE_SIZE]
        step = layer.steps(n)[:, None]
        assert (np.abs(found[:, first : first + PAGE_SIZE] - page) <= 0.502 * step + 1e-6).all()


@pytest.mark.parametrize("kind", ["u8", "u4"])
def test_moved_keys_are_nearly_as_good_as_quantized_once(kind: str) -> None:
    exact = Layer("f32", 128, seed=3).read_keys()
    layer = Layer(kind, 128, seed=3)
    kept = np.stack([np.arange(h, 128, 4) for h in range(KV_HEADS)]).astype(np.int32)
    layer.move(kept)
    wanted = np.take_along_axis(exact, kept[:, :, None], axis=1)
    moved = layer.read_keys(PAGE_SIZE) - wanted
    for head in range(KV_HEADS):
        page = layer.keys[layer.table[0], head]
        key_codec.write_keys(wanted[head], PAGE_SIZE, HEAD_SIZE, layer.kind, page)
    once = layer.read_keys(PAGE_SIZE) - wanted
    # Two independent roundings instead of one: the square root of two.
    assert np.sqrt((moved**2).mean() / (once**2).mean()) < 1.5


@pytest.mark.parametrize("kind", ["u8", "u4"])
def test_what_stays_keeps_its_bytes_unless_a_newcomer_is_out_of_range(kind: str) -> None:
    layer = Layer(kind, 64)
    step, keys = layer.steps(0), layer.read_keys()
    # Slot 5 of each head is filled by the token of the second page that needs no wider range in
    # any channel but (head by head) the odd one.
    low, high = keys[:, :PAGE_SIZE].min(axis=1), keys[:, :PAGE_SIZE].max(axis=1)
    newcomer = keys[:, 40]
    inside = (newcomer >= low) & (newcomer <= high)
    assert inside.any()
    assert not inside.all()
    sources = np.tile(np.arange(PAGE_SIZE, dtype=np.int32), (KV_HEADS, 1))
    sources[:, 5] = 40
    move_tokens(layer.keys, layer.kind, layer.values, *2 * (layer.table,), sources, HEAD_SIZE)
    near = (newcomer >= low - 0.49 * step) & (newcomer <= high + 0.49 * step)
    far = (newcomer < low - 0.51 * step) | (newcomer > high + 0.51 * step)
    assert (layer.steps(0) == step)[near].all()
    assert (layer.steps(0) > step)[far].all()
    now = layer.read_keys()[:, :PAGE_SIZE]
    stayed = np.delete(now, 5, axis=1) == np.delete(keys[:, :PAGE_SIZE], 5, axis=1)
    assert stayed.all(axis=1)[near].all()


@pytest.mark.parametrize("num_come", [1, 9, 31])
def test_keys_that_join_others_get_the_codes_that_all_of_them_would(num_come: int) -> None:
    rng = np.random.default_rng(num_come)
    layer = Layer("u8", 32, seed=num_come)
    rows = rng.permutation(PAGE_SIZE).astype(np.int32)
    came, staying = rows[:num_come], rows[num_come:]
    for head in range(KV_HEADS):
        page = layer.keys[layer.table[0], head]
        wanted, keys = page.copy(), layer.read_keys()[head].copy()
        keys[came] = 1.5 * rng.standard_normal((num_come, HEAD_SIZE)).astype(np.float32)
        key_codec.write_keys(keys, PAGE_SIZE, HEAD_SIZE, layer.kind, wanted, True)
        key_codec.join_bytes(keys, staying, came, HEAD_SIZE, page)
        header = 8 * HEAD_SIZE
        np.testing.assert_allclose(
            page[:header].view(np.float32), wanted[:header].view(np.float32), rtol=1e-5
        )
        # Where a code lies half-way between two, the order of operations decides.
        steps = np.abs(page[header:].astype(int) - wanted[header:])
        assert steps.max() <= 1
        assert (steps > 0).mean() < 0.01


@pytest.mark.parametrize("kind", ["u8", "u4"])
def test_a_hundred_cuts_cost_a_few_roundings(kind: str) -> None:
    """A quarter of the older tokens is evicted a hundred times; what remains is as it was."""
    kept, fresh, recent = 160, 32, 32
    layer, rng = Layer(kind, kept + fresh), np.random.default_rng(4)
    exact = layer.read_keys().astype(np.float64)
    ages = np.zeros((KV_HEADS, kept + fresh), int)
    slots = np.tile(np.arange(kept + fresh, dtype=np.int32), (KV_HEADS, 1))
    errors: dict[int, list[float]] = {}
    for _ in range(100):
        # The first eight are never evicted, so that something lives through all cuts.
        chosen = np.stack(
            [
                np.r_[
                    :8,
                    8 + np.sort(rng.permutation(kept - recent - 8 + fresh)[: kept - recent - 8]),
                    kept + fresh - recent : kept + fresh,
                ]
                for _ in range(KV_HEADS)
            ]
        )
        old = np.take_along_axis(slots, chosen, axis=1)
        new = place(old, recent)
        sources = np.empty_like(old)
        np.put_along_axis(sources, new, old, axis=1)
        move_tokens(layer.keys, layer.kind, layer.values, *2 * (layer.table,), sources, HEAD_SIZE)
        slots[:, :kept], slots[:, kept:] = new, np.arange(kept, kept + fresh)
        ages[:, :kept], ages[:, kept:] = np.take_along_axis(ages, chosen, axis=1) + 1, 0
        exact[:, :kept] = np.take_along_axis(exact, chosen[:, :, None], axis=1)
        for head in range(KV_HEADS):
            rows = rng.standard_normal((PAGE_SIZE, HEAD_SIZE)).astype(np.float32)
            stored = layer.keys[layer.table[kept // PAGE_SIZE], head]
            key_codec.write_keys(rows, PAGE_SIZE, HEAD_SIZE, layer.kind, stored)
        keys = np.take_along_axis(layer.read_keys(), slots[:, :, None], axis=1)
        exact[:, kept:] = keys[:, kept:]
        squares = ((keys - exact) ** 2).mean(axis=2)
        for age in (3, 100):
            errors.setdefault(age, []).extend(squares[ages == age])
    # Keys are normal, so a page of 32 spans about four of their standard deviations.
    rounding = 4.1 / (255 if kind == "u8" else 15) / np.sqrt(12)
    few, hundred = (np.sqrt(np.mean(errors[age])) / rounding for age in (3, 100))
    assert 0.5 < few < 2
    assert hundred < 4.5  # independent roundings would be off by ten


@KINDS
def test_pages_that_are_to_stay_as_they_are_get_others_in_their_place(kind: str) -> None:
    rng = np.random.default_rng(6)
    kept = np.stack([np.sort(rng.permutation(96)[:60]) for _ in range(KV_HEADS)]).astype(np.int32)
    sources = np.empty_like(kept)
    np.put_along_axis(sources, place(kept, 10), kept, axis=1)
    alone, shared = Layer(kind, 96), Layer(kind, 96)
    alone.move(sources)
    before = shared.keys[shared.table].copy(), shared.values[shared.table].copy()
    spare = np.setdiff1d(np.arange(len(shared.keys)), shared.table).astype(np.int32)
    targets = np.array([spare[0], spare[1], shared.table[2]], np.int32)
    table = shared.table
    shared.move(sources, targets)
    np.testing.assert_array_equal(shared.keys[table], before[0])
    np.testing.assert_array_equal(shared.values[table], before[1])
    shared.table = targets
    np.testing.assert_array_equal(shared.read_keys(60), alone.read_keys(60))
    np.testing.assert_array_equal(shared.read_values(60), alone.read_values(60))


@KINDS
def test_whole_pages_move_without_requantizing(kind: str) -> None:
    layer = Layer(kind, 128)
    pages = np.array([0, 2, 3])
    kept = (pages[:, None] * PAGE_SIZE + np.arange(PAGE_SIZE)).reshape(1, -1)
    before = layer.keys[layer.table[pages]].copy()
    slots = np.tile(kept, (KV_HEADS, 1)).astype(np.int32)
    layer.move(slots)
    np.testing.assert_array_equal(layer.keys[layer.table[:3]], before)


@KINDS
def test_a_flat_channel_is_stored_exactly(kind: str) -> None:
    keys = np.full((PAGE_SIZE, HEAD_SIZE), 1.5, np.float32)
    layer = Layer(kind, 32)
    key_codec.write_keys(keys, PAGE_SIZE, HEAD_SIZE, layer.kind, layer.keys[layer.table[0], 0])
    np.testing.assert_allclose(layer.read_keys()[0], 1.5, atol=1e-3)
