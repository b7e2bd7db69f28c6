"""A model with two layers that see all and two that have a window."""

from __future__ import annotations

import warnings
from pathlib import Path

from ov_kvcrush.export import ExportOptions, export_model
from tests.support.engines import EXACT
from tests.support.model_factory import make_model


def export_half_sliding(folder: Path) -> Path:
    """Make one in ``folder`` and export it, in f32; where it is."""
    source = make_model(
        folder / "source",
        "Gemma3",
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    output = folder / "exported"
    options = ExportOptions(str(source), output, weight_format="fp32", calibrate=False, **EXACT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's
        export_model(options)
    return output
