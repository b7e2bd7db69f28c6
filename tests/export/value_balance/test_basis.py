"""A basis of values: what it spreads, and the harm of rounding in it."""

from __future__ import annotations

import numpy as np
import pytest

from ov_kvcrush.export.kv_plan.storage_errors import Storage, quantized_values
from ov_kvcrush.export.value_balance.basis import balanced_basis, rounding_cost, spreading_matrix


def correlated(num_tokens: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Values ``[num_tokens, size]`` around a mean, and a sensitivity, both unlike noise."""
    generator = np.random.default_rng(3)
    mixing = generator.normal(size=(size, size)) * np.geomspace(3, 0.1, size)
    values = (generator.normal(size=(num_tokens, size)) + 0.5) @ mixing.T
    outputs = generator.normal(size=(2 * size, size)) * np.geomspace(0.2, 2, size)
    return values, outputs.T @ outputs


def harm(values: np.ndarray, sensitivity: np.ndarray, basis: np.ndarray, group: int = 0) -> float:
    """What rounding to u4 in a basis does to the output."""
    stored = (values @ basis).astype(np.float32)[None]
    wrong = (quantized_values(stored, Storage("u4", group)) - stored)[0] @ np.linalg.inv(basis)
    return float(np.einsum("ti,ij,tj->", wrong, sensitivity, wrong))


@pytest.mark.parametrize("size", [16, 64, 80, 96, 7])
def test_components_are_spread_over_all_values(size: int) -> None:
    matrix = spreading_matrix(size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(matrix[0], np.full(size, size**-0.5))


@pytest.mark.parametrize("group", [0, 32, 16])
@pytest.mark.parametrize("size", [64, 96])
def test_rounding_does_less_harm_in_a_balanced_basis(size: int, group: int) -> None:
    values, sensitivity = correlated(4000, size)
    moment = values[:2000].T @ values[:2000] / 2000
    basis = balanced_basis(moment, sensitivity)
    rotation = spreading_matrix(size)
    judged = values[2000:]
    plain, rotated, balanced = (
        harm(judged, sensitivity, one, group) for one in (np.eye(size), rotation, basis)
    )
    assert balanced < 0.6 * min(plain, rotated)
    if not group:
        predicted = rounding_cost(moment, sensitivity, basis) / rounding_cost(
            moment, sensitivity, rotation
        )
        assert balanced / rotated == pytest.approx(predicted, rel=0.15)


def test_scales_of_channels_change_nothing() -> None:
    values, sensitivity = correlated(500, 32)
    scales = np.ones(32)
    scales[[3, 17]] = 20
    basis = balanced_basis(values.T @ values, sensitivity)
    scaled = values * scales
    other = balanced_basis(scaled.T @ scaled, sensitivity / np.outer(scales, scales))
    assert harm(scaled, sensitivity / np.outer(scales, scales), other) == pytest.approx(
        harm(values, sensitivity, basis), rel=0.1
    )


def test_channels_without_values_do_no_harm() -> None:
    values, sensitivity = correlated(500, 32)
    values[:, 5] = 0
    sensitivity[7] = sensitivity[:, 7] = 0
    for matrices in ((values.T @ values, sensitivity), (np.zeros((32, 32)), np.zeros((32, 32)))):
        basis = balanced_basis(*matrices)
        assert np.isfinite(basis).all()
        assert np.linalg.cond(basis) < 1e4
