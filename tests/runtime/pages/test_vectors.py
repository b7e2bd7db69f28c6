"""Vectors of sixteen float32 compute what NumPy does with each element."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.pages.jit import jit
from ov_kvcrush.runtime.pages.vectors import (
    LANES,
    add,
    copy_bytes,
    divide,
    exp2,
    fetch_ahead,
    larger,
    load,
    load_bytes,
    multiply,
    multiply_add,
    smaller,
    splat,
    splat_from,
    store,
    store_bytes,
    subtract,
    total,
    where_at_least,
)

Floats = NDArray[np.float32]


@jit
def _every_operation(a: Floats, b: Floats, results: Floats) -> float:
    x, y = load(a, 0), load(b, 0)
    lanes = np.int64(LANES)
    store(results, 0, add(x, y))
    store(results, lanes, subtract(x, y))
    store(results, 2 * lanes, multiply(x, y))
    store(results, 3 * lanes, divide(x, y))
    store(results, 4 * lanes, larger(x, y))
    store(results, 5 * lanes, smaller(x, y))
    store(results, 6 * lanes, multiply_add(x, y, splat(np.float32(0.5))))
    store(results, 7 * lanes, splat_from(a, 3))
    summed: float = total(x)
    return summed


def test_each_element_is_computed_alone() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, LANES)).astype(np.float32)
    results = np.empty((8, LANES), np.float32)
    summed = _every_operation(a, b, results)
    expected = [a + b, a - b, a * b, a / b, np.maximum(a, b), np.minimum(a, b)]
    np.testing.assert_array_equal(results[:6], expected)
    np.testing.assert_allclose(results[6], a * b + np.float32(0.5), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(results[7], np.full(LANES, a[3]))
    np.testing.assert_allclose(summed, a.sum(), rtol=1e-5, atol=1e-6)


@jit
def _powers(x: Floats, results: Floats) -> None:
    store(results, 0, exp2(load(x, 0)))


def test_powers_of_two_are_right_to_seven_digits_and_never_overflow() -> None:
    x = np.array([0, -0.25, -0.5, -1, *np.linspace(-125, -1.3, 10), -126, -3e38], np.float32)
    results = np.empty(LANES, np.float32)
    _powers(x, results)
    np.testing.assert_allclose(results, np.exp2(np.maximum(x, -126).astype(float)), rtol=3e-7)


@jit
def _bytes(x: Floats, results: NDArray[np.uint8]) -> None:
    store_bytes(results, 0, load(x, 0))


def test_bytes_are_rounded_to_the_nearest_and_halves_to_the_even_one() -> None:
    x = np.array([0, 0.5, 1.5, 2.5, 2.51, 254.5, 255, *range(9)], np.float32)
    results = np.empty(LANES, np.uint8)
    _bytes(x, results)
    np.testing.assert_array_equal(results, np.rint(x).astype(np.uint8))


@jit
def _read_bytes(codes: NDArray[np.uint8], results: Floats) -> None:
    fetch_ahead(codes, 3)
    store(results, 0, load_bytes(codes, 3))


def test_bytes_are_read_from_anywhere_as_numbers() -> None:
    codes, results = np.arange(0, 250, 10, dtype=np.uint8), np.empty(LANES, np.float32)
    _read_bytes(codes, results)
    np.testing.assert_array_equal(results, codes[3 : 3 + LANES])


@jit
def _choose(a: Floats, b: Floats, x: Floats, y: Floats, results: Floats) -> None:
    store(results, 0, where_at_least(load(a, 0), load(b, 0), load(x, 0), load(y, 0)))


def test_what_cannot_be_compared_is_not_at_least() -> None:
    a, b, x, y = np.random.default_rng(1).integers(0, 3, (4, LANES)).astype(np.float32)
    a[0] = np.nan
    results = np.empty(LANES, np.float32)
    _choose(a, b, x, y, results)
    np.testing.assert_array_equal(results, np.where(a >= b, x, y))


@jit
def _copy(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    copy_bytes(source, 7, target, 2, 5)


def test_bytes_are_copied_as_if_arrays_were_flat() -> None:
    source, target = np.arange(24, dtype=np.uint8).reshape(4, 6), np.zeros((2, 6), np.uint8)
    _copy(source, target)
    assert target.ravel().tolist() == [0, 0, 7, 8, 9, 10, 11, 0, 0, 0, 0, 0]
