"""A KV plan in words: layers that are alike as a range, those that stand out by name."""

from __future__ import annotations

import pytest

from ov_kvcrush.cli.output.plan_summary import basis_line, budget_line, precision_ranges
from ov_kvcrush.plan import ValueBasis
from ov_kvcrush.precisions import LayerPrecision


def test_layers_that_are_stored_alike_are_shown_as_a_range() -> None:
    coarse, fine = LayerPrecision("u4", "u4", 0, 32), LayerPrecision("u8", "u8")
    assert precision_ranges((fine, coarse, coarse, fine)) == [
        "layer 0: K u8, V u8",
        "layers 1–2: K u4, V u4 (groups of 32)",
        "layer 3: K u8, V u8",
    ]


@pytest.mark.parametrize(
    ("shares", "line"),
    [
        ((0.2, 0.2, 2.2, 1.4), "layer 2: 2.2, layer 3: 1.4, others: 0.2"),
        ((0.2, 2.5, 0.2, 0.6, 1.5), "layer 1: 2.5, layer 4: 1.5, others: 0.2–0.6"),
        (
            (1.3, 1.4, 1.5, 1.2, 0.2, 0.4),
            "layer 2: 1.5, layer 1: 1.4, layer 0: 1.3, others: 0.2–1.2",
        ),
        ((1.0, 1.0), "others: 1.0"),
    ],
)
def test_the_layers_with_large_budgets_are_named(shares: tuple[float, ...], line: str) -> None:
    assert budget_line(shares) == f"{line} (1 is an even share)"


@pytest.mark.parametrize(
    ("basis", "line"),
    [
        (ValueBasis("balanced"), "balanced"),
        (
            ValueBasis("balanced", predicted_cost=(0.678, 0.341, 0.5)),
            "balanced: rounding costs 34–68 % of before (predicted)",
        ),
    ],
)
def test_the_basis_of_values_is_told(basis: ValueBasis, line: str) -> None:
    assert basis_line(basis) == line
