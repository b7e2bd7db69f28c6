"""A KV plan in words: layers that are alike as a range, those that stand out by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ov_kvcrush.cli.output.plan_summary import (
    basis_line,
    budget_line,
    gate_line,
    precision_ranges,
    print_summary,
    print_summary_as_json,
)
from ov_kvcrush.model_folder import TEMPLATE_FILE
from ov_kvcrush.plan import KVPlan, LayerGeometry, Measurement, ValueBasis
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


def plan_of(*windows: int) -> KVPlan:
    """Layers that take 100 bytes a token each (20 + 5 numbers in f32), by sliding window."""
    layers = tuple(LayerGeometry(1, 1, 20, 5, window) for window in windows)
    precisions = (LayerPrecision("f32", "f32"),) * len(windows)
    weights = {"format": "fp32", "size_bytes": 0}
    return KVPlan("llama", "", layers, precisions, 100.0 * len(windows), 0, weights=weights)


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
