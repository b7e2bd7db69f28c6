"""Divergences of distributions, against SciPy-free sums written out in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from ov_kvcrush.evaluation.fidelity import divergence
from ov_kvcrush.evaluation.fidelity.divergence import Reference, log_likelihoods, log_totals


def random_logits(rows: int, vocab: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 4, (rows, vocab)).astype(np.float32)


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("block", [1, 1000, 1 << 20])
def test_it_is_the_divergence_from_the_reference(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "_BLOCK", block)
    full, cut = random_logits(7, 333, 1), random_logits(7, 333, 2)
    p, q = probabilities(full), probabilities(cut)
    found = Reference(full).compare(cut)
    np.testing.assert_allclose(found.kl, (p * np.log(p / q)).sum(axis=1), rtol=1e-9)
    np.testing.assert_array_equal(found.alike, full.argmax(axis=1) == cut.argmax(axis=1))
    np.testing.assert_allclose(
        log_likelihoods(cut, np.arange(7)), np.log(q[np.arange(7), np.arange(7)]), rtol=1e-9
    )


def test_what_is_the_same_diverges_by_nothing_and_what_is_shifted_too() -> None:
    full = random_logits(3, 50_000, 3)
    reference = Reference(full)
    assert reference.compare(full).kl.tolist() == [0, 0, 0]
    assert reference.compare(full).alike.all()
    assert reference.compare(full + np.float32(64)).kl.max() < 1e-6


def test_a_small_difference_is_not_drowned_and_a_large_one_does_not_overflow() -> None:
    full = random_logits(1, 150_000, 4)
    moved = full.copy()
    moved[0, 17] += 1e-3
    p = probabilities(full)[0, 17]
    # To the second order, half the variance of what was added.
    np.testing.assert_allclose(
        Reference(full).compare(moved).kl[0], 0.5e-6 * p * (1 - p), rtol=0.02, atol=1e-15
    )
    far = np.full((1, 10), -1e4, np.float32)
    far[0, 3] = 1e4
    assert np.isfinite(Reference(full[:, :10]).compare(far).kl).all()
    assert log_totals(far)[0] == 1e4


def test_the_reference_keeps_what_the_next_inference_overwrites() -> None:
    full = random_logits(2, 20, 5)
    reference = Reference(full)
    before = full.copy()
    full[:] = 0
    assert reference.compare(before).kl.max() == 0


def test_no_rows_are_no_divergence() -> None:
    none = np.empty((0, 20), np.float32)
    assert Reference(none).compare(none).kl.shape == (0,)
    assert log_likelihoods(none, np.empty(0, np.int64)).shape == (0,)
