from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.errors import ModelError
from ov_kvcrush.model_folder import fingerprint
from ov_kvcrush.plan import PLAN_FILE, KVPlan, LayerGeometry
from ov_kvcrush.plan_records import CacheOutput, Calibration, Measurement, ValueBasis
from ov_kvcrush.precisions import LayerPrecision

CALIBRATION = Calibration(
    text={"source": "ov-kvcrush"},
    passages=(512, 480),
    target={"max_drop": 0.01},
    precisions=(LayerPrecision("u8", "u8"), LayerPrecision("u8", "u4")),
    harms=((0.0, 0.002), (0.0, 0.001)),
    predicted_kl=(0.002, 0.0),
    measured_kl=(0.0021, 0.0),
    outputs={"plan": CacheOutput(perplexity=12.5, kl=0.0022, bytes_per_token=500.5)},
)
# As releases have written it since version 3 of the format.
CALIBRATION_AS_JSON = """{
  "text": {"source": "ov-kvcrush"},
  "passages": [512, 480],
  "target": {"max_drop": 0.01},
  "precisions": [
    {"key": "u8", "value": "u8", "key_group_size": 0, "value_group_size": 0},
    {"key": "u8", "value": "u4", "key_group_size": 0, "value_group_size": 0}
  ],
  "harms": [[0.0, 0.002], [0.0, 0.001]],
  "predicted_kl": [0.002, 0.0],
  "measured_kl": [0.0021, 0.0],
  "outputs": {"plan": {"perplexity": 12.5, "kl": 0.0022, "bytes_per_token": 500.5}}
}"""
BASIS = ValueBasis("balanced", {"source": "ov-kvcrush"}, (512, 480), (0.5, 0.75))
BASIS_AS_JSON = """{
  "method": "balanced",
  "text": {"source": "ov-kvcrush"},
  "passages": [512, 480],
  "predicted_cost": [0.5, 0.75]
}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with something like an IR, large enough to be probed and not read whole."""
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    (tmp_path / "openvino_model.bin").write_bytes(bytes(1_000_000))
    return tmp_path


def plan_of(folder: Path) -> KVPlan:
    return KVPlan(
        model_type="llama",
        fingerprint=fingerprint(folder),
        layers=(LayerGeometry(4, 2, 64, 64), LayerGeometry(4, 2, 64, 64, sliding_window=128)),
        precisions=(LayerPrecision("u8", "u4", 0, 32), LayerPrecision("u8", "u8")),
        kv_bytes_per_token=500.5,
        context_length=4096,
        weights={"format": "int8_asym", "size_bytes": 1000},
        made_with={"openvino": "2026.4.1"},
    )


def store(folder: Path, **changes: Any) -> None:
    stored = {**plan_of(folder).to_dict(), **changes}
    (folder / PLAN_FILE).write_text(json.dumps(stored))


def test_a_stored_plan_comes_back_as_it_was(folder: Path) -> None:
    plan = plan_of(folder)
    assert plan.save(folder) == folder / PLAN_FILE
    assert KVPlan.load(folder) == plan
    assert sorted(path.name for path in folder.iterdir()) == [
        "openvino_model.bin",
        "openvino_model.xml",
        PLAN_FILE,
    ]


def test_precisions_are_stored_by_ranges_of_layers(folder: Path) -> None:
    stored = plan_of(folder).to_dict()
    assert list(stored["precisions"]) == ["0", "1"]
    one = dataclasses.replace(plan_of(folder), precisions=(LayerPrecision("u8", "u4"),) * 2)
    assert one.to_dict()["precisions"] == {
        "0-1": {"key": "u8", "value": "u4", "key_group_size": 0, "value_group_size": 0}
    }


def test_a_plan_of_version_2_with_a_precision_for_each_layer_still_loads(folder: Path) -> None:
    plan = plan_of(folder)
    store(folder, version=2, precisions=[dataclasses.asdict(one) for one in plan.precisions])
    assert KVPlan.load(folder) == plan


def in_version_4(plan: KVPlan, layer_shares: list[float]) -> dict[str, Any]:
    stored = plan.to_dict()
    del stored["head_shares"]
    return {**stored, "version": 4, "layer_shares": layer_shares}


def test_heads_of_a_plan_of_version_4_have_their_layers_share(folder: Path) -> None:
    plan = plan_of(folder)
    assert KVPlan.from_dict(in_version_4(plan, [])) == plan
    without_window = dataclasses.replace(plan, layers=(plan.layers[0],) * 2)
    loaded = KVPlan.from_dict(in_version_4(without_window, [1.25, 0.75]))
    assert loaded.head_shares == ((1.25, 1.25), (0.75, 0.75))
    assert loaded.layer_shares == (1.25, 0.75)


def test_the_share_of_a_layer_is_the_mean_of_its_heads_shares(folder: Path) -> None:
    plan = plan_of(folder)
    assert plan.layer_shares == ()
    layers = (*plan.layers, LayerGeometry(4, 4, 64, 64))
    shares = ((3.0, 0.6), (1.0, 1.0), (0.6, 0.6, 0.6, 0.6))
    changed = dataclasses.replace(
        plan, layers=layers, precisions=(LayerPrecision("u8", "u8"),) * 3, head_shares=shares
    )
    # 1 on average over the six heads without a sliding window, and over the two layers.
    assert changed.layer_shares == pytest.approx((1.5, 1.0, 0.5))
    changed.save(folder)
    assert KVPlan.load(folder) == changed


def test_records_are_written_as_the_format_has_them(folder: Path) -> None:
    plan = dataclasses.replace(plan_of(folder), calibration=CALIBRATION, value_basis=BASIS)
    plan.save(folder)
    assert KVPlan.load(folder) == plan
    stored = json.loads((folder / PLAN_FILE).read_text())
    for name, text in (("calibration", CALIBRATION_AS_JSON), ("value_basis", BASIS_AS_JSON)):
        assert json.dumps(stored[name]) == json.dumps(json.loads(text))
    assert ValueBasis("balanced").to_dict() == {"method": "balanced"}


def test_what_was_not_calibrated_is_stored_as_an_empty_object(folder: Path) -> None:
    stored = plan_of(folder).to_dict()
    assert stored["calibration"] == stored["value_basis"] == {}
    for name in ("calibration", "value_basis"):  # as releases wrote it that did not have them
        del stored[name]
    assert KVPlan.from_dict(stored) == plan_of(folder)


def test_a_calibration_that_knows_its_text_by_name_still_loads(folder: Path) -> None:
    store(folder, calibration={**json.loads(CALIBRATION_AS_JSON), "text": "wikitext2"})
    plan = KVPlan.load(folder)
    assert plan is not None
    assert plan.calibration == dataclasses.replace(CALIBRATION, text="wikitext2")


def test_a_plain_export_has_no_plan(folder: Path) -> None:
    assert KVPlan.load(folder) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "format version 99; this release reads 5"),
        ({"layers": [{"num_heads": 3}]}, "damaged"),
        ({"layers": []}, "damaged: 0 layers, 2 precisions"),
        ({"surprise": 1}, "damaged"),
        ({"context_length": "8192"}, "damaged: context_length is '8192'"),
        ({"kv_bytes_per_token": None}, "damaged: kv_bytes_per_token is None"),
        ({"head_shares": [["1", 1], [1, 1]]}, "damaged: one of head_shares is '1'"),
        ({"head_shares": ["11", "11"]}, "damaged: one of head_shares is '1'"),
        ({"head_shares": [[1, -0.5], [1, 1]]}, "damaged: one of head_shares is -0.5"),
        ({"head_shares": [[1, 1], [float("nan"), 1]]}, "damaged: one of head_shares is nan"),
        ({"head_shares": [[1, 1], [1, float("inf")]]}, "damaged: one of head_shares is inf"),
        ({"head_shares": [[1, 1]]}, "head_shares are of .2. heads by layer, and .* .2, 2."),
        ({"head_shares": [[1, 1], [1]]}, "head_shares are of .2, 1. heads by layer"),
        ({"head_shares": [1, 1]}, "damaged"),
        ({"layer_shares": [1, 1]}, "damaged: .*'layer_shares'"),
        ({"version": 4, "layer_shares": ["1", "2"]}, "damaged: one of head_shares is '1'"),
        ({"version": 4, "layer_shares": [1.0]}, "damaged: 2 layers, 1 layer shares"),
        ({"version": 4, "layer_shares": 1.0}, "damaged"),
        ({"precisions": {"0-99999999999": {"key": "u8", "value": "u8"}}}, "not a range of layers"),
        ({"precisions": "u8"}, "damaged"),
        ({"calibration": {"text": "wikitext2"}}, "damaged: 'passages'"),
        ({"calibration": {**json.loads(CALIBRATION_AS_JSON), "mood": 1}}, "damaged: .*'mood'"),
        ({"calibration": {**json.loads(CALIBRATION_AS_JSON), "outputs": []}}, "damaged"),
        ({"calibration": ["text"]}, "damaged"),
        ({"value_basis": {"text": {}}}, "damaged: .*'method'"),
        ({"value_basis": {"method": "balanced", "mood": 1}}, "damaged: .*'mood'"),
        ({"value_basis": "balanced"}, "damaged"),
        ({"precisions": {"0-1": {"key": "u8", "value": "f32"}}}, "cannot hold keys in u8"),
        ({"precisions": {"0": {"key": "u8", "value": "u8"}}}, "damaged: 2 layers, 1 precisions"),
        ({"fingerprint": "of another"}, "was written for another model"),
    ],
)
def test_plans_that_do_not_fit_are_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    store(folder, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        KVPlan.load(folder)
    assert "ov-kvcrush calibrate" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_files_that_are_not_a_plan_are_refused(folder: Path, text: str) -> None:
    (folder / PLAN_FILE).write_text(text)
    with pytest.raises(ModelError, match=PLAN_FILE):
        KVPlan.load(folder)


def test_a_plan_without_its_model_is_refused(folder: Path) -> None:
    store(folder)
    (folder / "openvino_model.bin").unlink()
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        KVPlan.load(folder)


def test_the_fingerprint_tells_other_graphs_and_weights_apart(folder: Path) -> None:
    prints = {fingerprint(folder)}
    weights = folder / "openvino_model.bin"
    weights.write_bytes(b"\1" * 1_000_000)
    prints.add(fingerprint(folder))
    weights.write_bytes(b"\1" * 1_000_001)
    prints.add(fingerprint(folder))
    (folder / "openvino_model.xml").write_text("<net></net>")
    prints.add(fingerprint(folder))
    assert len(prints) == 4


def test_a_plan_cannot_be_changed(folder: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan_of(folder).context_length = 1  # type: ignore[misc]


def test_to_read_a_plan_starts_no_openvino() -> None:
    code = (
        "import sys; from ov_kvcrush import KVPlan; "
        "print([n for n in ('openvino', 'openvino_genai', 'torch', 'numba') if n in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


MEASUREMENT = Measurement(({"source": "notes.txt"},), 80, 6, 1000, (0.5, None), 60.5)


def test_measurements_come_back_and_older_plans_have_none(folder: Path) -> None:
    plan = dataclasses.replace(
        plan_of(folder), share_measurement=MEASUREMENT, gate_measurement=MEASUREMENT
    )
    plan.save(folder)
    assert KVPlan.load(folder) == plan
    stored = plan_of(folder).to_dict()
    for name in ("share_measurement", "gate_measurement"):
        assert stored.pop(name) == {}
    assert KVPlan.from_dict({**stored, "version": 3}) == plan_of(folder)


@pytest.mark.parametrize(
    "change", [{"seconds": "1"}, {"correlation": ["high"]}, {"mood": 1}, {"texts": None}]
)
def test_a_damaged_measurement_is_refused(folder: Path, change: dict[str, Any]) -> None:
    store(folder, gate_measurement={**MEASUREMENT.to_dict(), **change})
    with pytest.raises(ModelError, match="damaged"):
        KVPlan.load(folder)
