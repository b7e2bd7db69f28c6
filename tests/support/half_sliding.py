"""A model with two layers that see all and two that have a window."""

from __future__ import annotations

from pathlib import Path

from tests.support.exported import exported_random


def export_half_sliding() -> Path:
    """It exported in f32; not to be written to."""
    return exported_random(
        "Gemma3",
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
