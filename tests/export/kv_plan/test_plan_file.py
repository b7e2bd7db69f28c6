"""A KV plan of the user's own: read, refused, exported and obeyed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export import ExportOptions, estimate_model, export_model
from ov_kvcrush.export.kv_plan.plan_file import read_kv_file
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.paged.engine import PagedEngine

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's

U8, U4 = LayerPrecision("u8", "u8"), LayerPrecision("u4", "u4")


def test_a_plan_of_ones_own_is_exported_and_obeyed(tiny_source_dir: Path, tmp_path: Path) -> None:
    from openvino_genai import Tokenizer

    path = tmp_path / "kv.json"
    u8, u4 = ({"key": kind, "value": kind} for kind in ("u8", "u4"))
    path.write_text(json.dumps({"0": u8, "1": u4}))
    chosen = ExportOptions(model=str(tiny_source_dir), output=tmp_path / "model", kv_plan=str(path))
    assert estimate_model(chosen).precisions == (U8, U4)
    plan = export_model(chosen)
    assert plan.precisions == (U8, U4)
    engine = PagedEngine(tmp_path / "model", Tokenizer(tmp_path / "model"))
    assert engine.describe().layer_precisions == {"0": "u8/u8", "1": "u4/u4"}
    assert engine.describe().kv_bytes_per_token == plan.kv_bytes_per_token
    # What an export wrote can be given to another.
    assert read_kv_file(tmp_path / "model" / "ov_kvcrush.json") == plan.precisions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "names no layers"),
        ('{"0": {"key": "u8", "value": "u8"}}', "is for 1 layers, and the model has 2"),
        ('{"0-1": {"key": "u8", "value": "f32"}}', "cannot hold keys in u8"),
        ('{"1": {"key": "u8", "value": "u8"}}', "layer 0 is in no range"),
    ],
)
def test_files_that_are_not_a_plan_for_the_model_are_refused(
    tiny_source_dir: Path, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "kv.json"
    path.write_text(text)
    chosen = ExportOptions(model=str(tiny_source_dir), output=tmp_path / "model", kv_plan=str(path))
    with pytest.raises(ConfigError, match=message):
        estimate_model(chosen)
