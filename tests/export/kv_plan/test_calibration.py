"""An export gives each layer its precision, and its plan says what came of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ov_kvcrush.export import ExportOptions, export_model
from ov_kvcrush.export.trial import can_try_out
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_model import PagedModel
from tests.support.model_factory import make_model

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's


def test_an_export_calibrates_and_the_engine_obeys(tmp_path: Path) -> None:
    source = make_model(tmp_path / "source", num_hidden_layers=3, head_dim=32)
    chosen = ExportOptions(
        model=str(source), output=tmp_path / "model", weight_format="fp32", kv_plan="auto"
    )
    plan = export_model(chosen)
    assert plan == KVPlan.load(tmp_path / "model")
    assert len(set(plan.precisions)) > 1
    found = plan.calibration
    assert found is not None
    assert len(found.predicted_kl) == len(found.measured_kl) == 3
    outputs = found.outputs
    in_bf16 = ["bf16 (model and cache)"] * can_try_out(LayerPrecision("bf16", "bf16"))
    assert list(outputs) == ["f32", *in_bf16, "u8/u8", "u8/u4", "u4/u4", "plan"]
    for name in in_bf16:
        assert 2 * outputs[name].bytes_per_token == outputs["f32"].bytes_per_token
        assert outputs[name].kl > 0
    assert outputs["plan"].bytes_per_token == plan.kv_bytes_per_token
    assert plan.kv_bytes_per_token <= 0.75 * outputs["u8/u8"].bytes_per_token
    assert outputs["f32"].kl == 0 < outputs["u8/u8"].kl < outputs["u4/u4"].kl
    model = PagedModel(tmp_path / "model", precisions=plan.precisions)
    assert model.kv_bytes_per_token == plan.kv_bytes_per_token
