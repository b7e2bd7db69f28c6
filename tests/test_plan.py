from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.errors import ModelError
from ov_kvcrush.plan import PLAN_FILE, KVPlan, LayerGeometry, fingerprint
from ov_kvcrush.precisions import LayerPrecision


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


def test_a_plain_export_has_no_plan(folder: Path) -> None:
    assert KVPlan.load(folder) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "format version 99; this release reads 3"),
        ({"layers": [{"num_heads": 3}]}, "damaged"),
        ({"layers": []}, "damaged: 0 layers, 2 precisions"),
        ({"surprise": 1}, "damaged"),
        ({"precisions": "u8"}, "damaged"),
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
    assert "Export the model again" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_files_that_are_no_plan_are_refused(folder: Path, text: str) -> None:
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
