from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.selection.ordering import Mask
from ov_kvcrush.selection.signature import (
    ANCHORS,
    Numbers,
    hamming_distances,
    make_anchor,
    signature_bits,
)


def bits_of(*rows: str) -> Mask:
    """Bits [heads, tokens, 1] of token signatures written like 1010."""
    return np.array([[[bit == "1"] for bit in column] for column in zip(*rows, strict=True)])


def same_tokens(num_heads: int, num_tokens: int) -> Numbers:
    return np.tile(np.arange(num_tokens, dtype=np.int32), (num_heads, 1))


def as_text(anchor: Mask) -> str:
    return "".join(str(int(bit)) for bit in anchor.T.ravel())


@given(
    seed=st.integers(0, 2**32 - 1),
    num_tokens=st.integers(1, 50),
    levels=st.integers(1, 60),
)
def test_every_head_marks_its_top_half_rounded_down(
    seed: int, num_tokens: int, levels: int
) -> None:
    scores = np.random.default_rng(seed).integers(0, levels, (3, num_tokens)).astype(np.float32)
    bits = signature_bits(scores, 0.5)
    assert bits.shape == (3, num_tokens, 1)
    assert bits.sum(axis=(1, 2)).tolist() == [num_tokens // 2] * 3
    for row, marked in zip(scores, bits[:, :, 0], strict=True):
        assert row[marked].min(initial=levels) >= row[~marked].max()


def test_the_fraction_sets_how_many_tokens_a_head_marks() -> None:
    scores = np.array([[3, 1, 4, 1, 5]], dtype=np.float32)
    assert signature_bits(scores, 0.25).ravel().tolist() == [0, 0, 0, 0, 1]
    assert signature_bits(scores, 0.8).ravel().tolist() == [1, 1, 1, 0, 1]


def test_a_pages_bits_are_those_of_its_tokens() -> None:
    scores = np.array([[4, 1, 2, 3]], dtype=np.float32)
    assert signature_bits(scores, 0.5, page_size=2).tolist() == [[[1, 0], [0, 1]]]


def test_the_mean_anchor_is_the_majority_of_each_column_and_ties_are_zero() -> None:
    bits = bits_of("1010", "1100", "1110", "0010", "0000")
    assert as_text(make_anchor("mean", bits, same_tokens(4, 5))) == "1010"
    bits = bits_of("10", "11", "00", "01")
    assert as_text(make_anchor("mean", bits, same_tokens(2, 4))) == "00"


def test_the_mean_counts_each_token_once_and_an_absent_one_as_zero() -> None:
    bits = bits_of("11", "11")
    assert as_text(make_anchor("mean", bits, same_tokens(2, 2))) == "11"
    # Four tokens in all: each head marks two of four.
    numbers = np.array([[0, 1], [2, 3]], dtype=np.int32)
    assert as_text(make_anchor("mean", bits, numbers)) == "00"


@given(seed=st.integers(0, 2**32 - 1), num_tokens=st.integers(1, 40))
def test_at_token_granularity_the_mean_of_half_bits_is_zeros(seed: int, num_tokens: int) -> None:
    scores = np.random.default_rng(seed).random((4, num_tokens), dtype=np.float32)
    bits = signature_bits(scores, 0.5)
    assert not make_anchor("mean", bits, same_tokens(4, num_tokens)).any()


@pytest.mark.parametrize(
    ("name", "anchor"), [("alternate", "010101"), ("zeros", "000000"), ("ones", "111111")]
)
def test_an_anchor_runs_through_the_heads_of_one_token_after_another(
    name: str, anchor: str
) -> None:
    bits = np.ones((3, 4, 2), dtype=np.bool_)
    made = make_anchor(name, bits, same_tokens(3, 4))
    assert made.shape == (3, 2)
    assert as_text(made) == anchor


def test_the_random_anchor_depends_on_its_seed_alone() -> None:
    bits = np.ones((16, 4, 4), dtype=np.bool_)
    numbers = same_tokens(16, 4)
    first = make_anchor("random", bits, numbers, seed=1)
    assert (first == make_anchor("random", ~bits, numbers + 1, seed=1)).all()
    assert (first != make_anchor("random", bits, numbers, seed=2)).any()


def test_every_anchor_is_as_long_as_a_signature() -> None:
    bits = np.zeros((6, 4, 2), dtype=np.bool_)
    for name in ANCHORS:
        anchor = make_anchor(name, bits, same_tokens(3, 4))
        assert anchor.shape == (6, 2)
        assert anchor.dtype == np.bool_


def test_distances_are_the_number_of_bits_that_differ() -> None:
    bits = bits_of("1010", "0101", "1100")
    anchor = np.array([[True], [False], [True], [False]])
    distances = hamming_distances(bits, same_tokens(4, 3), anchor)
    assert distances.tolist() == [[0, 4, 2]] * 4


def test_query_heads_vote_on_the_tokens_of_their_kv_head() -> None:
    bits = bits_of("1010", "0101", "1100")
    anchor = np.array([[True], [False], [True], [False]])
    distances = hamming_distances(bits, same_tokens(2, 3), anchor)
    assert distances.tolist() == [[0, 4, 2]] * 2


def test_a_head_that_does_not_hold_a_token_has_a_zero_in_its_signature() -> None:
    # Token 5 is held by both heads (11), token 3 by the first (10), token 9 by the second (01).
    numbers = np.array([[3, 5], [5, 9]], dtype=np.int32)
    bits = np.ones((2, 2, 1), dtype=np.bool_)
    ones = np.ones((2, 1), dtype=np.bool_)
    assert hamming_distances(bits, numbers, ones).tolist() == [[1, 0], [0, 1]]
    assert hamming_distances(bits, numbers, ~ones).tolist() == [[1, 2], [2, 1]]
