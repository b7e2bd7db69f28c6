"""A KV plan in words: layers that are alike as a range, those that stand out by name."""

from __future__ import annotations

import pytest

from ov_kvcrush.cli.output.plan_rows import basis_line, budget_row, gate_line, precision_ranges
from ov_kvcrush.plan_records import Measurement, ValueBasis
from ov_kvcrush.precisions import LayerPrecision
from tests.support.plans import with_shares


def test_layers_that_are_stored_alike_are_shown_as_a_range() -> None:
    coarse, fine = LayerPrecision("u4", "u4", 0, 32), LayerPrecision("u8", "u8")
    assert precision_ranges((fine, coarse, coarse, fine)) == [
        "layer 0: K u8, V u8",
        "layers 1–2: K u4, V u4 (groups of 32)",
        "layer 3: K u8, V u8",
    ]


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
    row = budget_row(with_shares(*((share,) * 2 for share in shares)))
    assert row == ("Layer budgets", f"{line} (1 is an even share)")


def test_where_heads_differ_the_heads_are_named() -> None:
    plan = with_shares((0.2, 0.2), (0.7, 4.4), (0.2, 1.2), (0.3, 0.8))
    line = "layer 1 head 1: 4.4, layer 2 head 1: 1.2, others: 0.2–0.8 (1 is an even share)"
    assert budget_row(plan) == ("Head budgets", line)


def test_a_gate_is_told_with_how_well_it_does_and_what_it_weighs() -> None:
    measured = Measurement((), 40, 3, 1000, (0.5, 0.75, 0.85, None))
    assert gate_line(measured, 212_960) == (
        "correlation with its teacher 0.70 (0.50 to 0.85 by layer), 213 kB, 40 passages"
    )
