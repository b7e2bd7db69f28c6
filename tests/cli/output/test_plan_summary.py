"""A KV plan in words: layers that are alike as a range, those that stand out by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ov_kvcrush.cli.output.plan_summary import (
    basis_line,
    budget_row,
    gate_line,
    precision_ranges,
    print_summary,
    print_summary_as_json,
)
from ov_kvcrush.model_folder import TEMPLATE_FILE
from ov_kvcrush.plan import KVPlan, LayerGeometry
from ov_kvcrush.plan_records import Measurement, ValueBasis
from ov_kvcrush.precisions import LayerPrecision


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


def plan_of(*windows: int) -> KVPlan:
    """Layers that take 100 bytes a token each (20 + 5 numbers in f32), by sliding window."""
    layers = tuple(LayerGeometry(1, 1, 20, 5, window) for window in windows)
    precisions = (LayerPrecision("f32", "f32"),) * len(windows)
    weights = {"format": "fp32", "size_bytes": 0}
    return KVPlan("llama", "", layers, precisions, 100.0 * len(windows), 0, weights=weights)


def with_shares(*shares: tuple[float, ...]) -> KVPlan:
    """A plan of layers with so many heads."""
    plan = plan_of(*(0 for _ in shares))
    layers = tuple(replace(plan.layers[0], num_kv_heads=len(layer)) for layer in shares)
    return replace(plan, layers=layers, head_shares=shares)


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


def test_budgets_are_in_the_summary_where_they_were_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(plan_of(0, 0), tmp_path)
    assert "Layer budgets" not in capsys.readouterr().out
    print_summary(with_shares((0.5, 1.0), (1.0, 1.5)), tmp_path)
    assert "  Head budgets  " in capsys.readouterr().out
    print_summary_as_json(with_shares((0.5, 1.0), (1.0, 1.5)), tmp_path)
    summary = json.loads(capsys.readouterr().out)
    assert summary["head_shares"] == [[0.5, 1.0], [1.0, 1.5]]
    assert summary["layer_shares"] == [0.75, 1.25]


def test_a_sliding_window_bounds_what_a_layer_takes_with_a_budget(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_summary_as_json(plan_of(0, 128, 10_000), Path("model"), is_estimate=False)
    summary = json.loads(capsys.readouterr().out)
    assert summary["budget"] == 1024
    assert summary["kv_bytes_at"] == {"1024": 307_200, "8192": 2_457_600, "32768": 9_830_400}
    # The budget is for the first layer; the others hold their windows and a page that slides out.
    assert summary["kv_bytes_with_budget"] == {
        "8192": 100 * (1024 + 128 + 32 + 8192),
        "32768": 100 * (1024 + 128 + 32 + 10_000 + 32),
    }


def test_chat_is_recommended_only_where_there_is_a_chat_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(plan_of(0), tmp_path, is_estimate=False)
    assert "Next:" not in capsys.readouterr().out
    (tmp_path / TEMPLATE_FILE).touch()
    print_summary(plan_of(0), tmp_path, is_estimate=False)
    assert f"Next: ov-kvcrush chat {tmp_path} --max-cache-size 1024" in capsys.readouterr().out


def test_a_gate_is_told_with_how_well_it_does_and_what_it_weighs() -> None:
    measured = Measurement((), 40, 3, 1000, (0.5, 0.75, 0.85, None))
    assert gate_line(measured, 212_960) == (
        "correlation with its teacher 0.70 (0.50 to 0.85 by layer), 213 kB, 40 passages"
    )
