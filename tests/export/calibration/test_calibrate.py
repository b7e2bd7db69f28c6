"""A model folder calibrated: what it is given, what stays, and that it is all or nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ov_kvcrush.errors import ExportError, ModelError
from ov_kvcrush.export import CalibrationOptions, ExportOptions, calibrate_model, export_model
from ov_kvcrush.export.calibration.calibrate import measure_model, write_calibrated
from ov_kvcrush.gate import GATE_FILE, Gate
from ov_kvcrush.plan import PLAN_FILE, KVPlan, LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_model import PagedModel
from tests.support.paths import ROOT

U8 = LayerPrecision("u8", "u8")
SHARES = ((2.0, 1.0), (0.5, 0.5))

# Python imports sitecustomize at its start: here, to hide what calibrating does not need.
_HIDE = """
import sys

class Hidden:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {!r}:
            raise ModuleNotFoundError(f"hidden: {{name}}")

sys.meta_path.insert(0, Hidden())
"""
NOT_NEEDED = ("torch", "nncf", "transformers", "optimum", "huggingface_hub", "datasets")


class Recorder:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.notes: list[str] = []
        self.shares: list[float] = []

    def step(self, number: int, total: int, title: str) -> None:
        self.steps.append(f"{number}/{total} {title}")

    def advance(self, share: float) -> None:
        self.shares.append(share)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def folder(plain_dir: Path, tmp_path: Path) -> Path:
    """A model as others publish it."""
    return shutil.copytree(plain_dir, tmp_path / "model")


def options(folder: Path, *only: str, **settings: Any) -> CalibrationOptions:
    return CalibrationOptions(folder, only, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def plan_beside(folder: Path) -> KVPlan:
    plan = KVPlan.load(folder)
    assert plan is not None
    return plan


def gate_beside(folder: Path) -> Gate:
    gate = Gate.load(folder)
    assert gate is not None
    return gate


def give_shares(folder: Path) -> KVPlan:
    """Let the plan in ``folder`` have layer shares, which random weights never get."""
    plan = dataclasses.replace(plan_beside(folder), head_shares=SHARES)
    plan.save(folder)
    return plan


def test_a_folder_without_a_plan_gets_plan_and_gate(folder: Path) -> None:
    before = contents(folder)
    progress = Recorder()
    plan = calibrate_model(options(folder), progress)
    assert plan == plan_beside(folder)
    assert (plan.model_type, plan.context_length) == ("llama", 512)
    assert plan.layers == (LayerGeometry(4, 2, 16, 16),) * 2
    assert plan.precisions == (U8, U8)
    assert plan.kv_bytes_per_token == PagedModel(folder).kv_bytes_per_token
    assert plan.weights["format"] == "int8_asym"
    assert plan.made_with["ov-kvcrush"] == version("ov-kvcrush")
    assert plan.made_with["optimum-intel"] == version("optimum-intel")
    assert plan.made_with["openvino"] == version("openvino").split("-")[0]
    gate = gate_beside(folder)
    assert [weight.shape for weight in gate.weights] == [(64, 2)] * 2
    measured = plan.gate_measurement
    assert measured is not None
    assert (measured.num_passages, measured.num_held, measured.passage_tokens) == (10, 2, 224)
    assert len(measured.correlation) == 2
    assert [text["kind"] for text in measured.texts] == ["prose", "code"]
    assert gate.about["texts"] == list(measured.texts)
    assert progress.steps == [
        "1/3 Compile the model",
        "2/3 Measure which heads look back",
        "3/3 Fit the gate",
    ]
    assert progress.shares == sorted(progress.shares)
    assert progress.shares[-1] == 1
    after = contents(folder)
    assert sorted(after) == sorted([*before, PLAN_FILE, GATE_FILE])
    assert {name: after[name] for name in before} == before


def test_an_export_measures_the_same(tiny_source_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    plans = [export_model(ExportOptions(str(tiny_source_dir), folder))]
    gates = [gate_beside(folder)]
    for name in (PLAN_FILE, GATE_FILE):
        (folder / name).unlink()
    plans.append(calibrate_model(options(folder)))
    gates.append(gate_beside(folder))
    differing: Any = {"made_with": {}, "gate_measurement": None, "share_measurement": None}
    same = [dataclasses.replace(plan, **differing) for plan in plans]
    assert same[0] == same[1]
    for ours, theirs in zip(*(gate.weights for gate in gates), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_an_export_without_calibration_has_geometry_and_precisions(
    tiny_source_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "exported"
    plan = export_model(ExportOptions(str(tiny_source_dir), output, calibrate=False))
    assert plan.layers == (LayerGeometry(4, 2, 16, 16),) * 2
    assert plan.precisions == (U8, U8)
    assert (plan.head_shares, plan.gate_measurement) == ((), None)
    assert not (output / GATE_FILE).exists()


def test_it_can_be_run_again(folder: Path) -> None:
    first = calibrate_model(options(folder))
    before = gate_beside(folder).digest
    again = calibrate_model(options(folder))
    assert again.made_with == first.made_with
    assert gate_beside(folder).digest == before


def test_only_the_gate_leaves_the_rest_as_it_is(folder: Path) -> None:
    calibrate_model(options(folder, "shares"))
    assert not (folder / GATE_FILE).exists()
    former = give_shares(folder)
    progress = Recorder()
    plan = calibrate_model(options(folder, "gate"), progress)
    assert plan.gate_measurement is not None
    assert plan == dataclasses.replace(former, gate_measurement=plan.gate_measurement)
    assert progress.steps == ["1/2 Compile the model", "2/2 Fit the gate"]


def test_only_the_shares_leave_the_gate_as_it_is(folder: Path) -> None:
    former = calibrate_model(options(folder))
    before = gate_beside(folder).digest
    give_shares(folder)
    plan = calibrate_model(options(folder, "shares"))
    assert plan == former  # random weights have no shares
    assert gate_beside(folder).digest == before


def test_only_the_precisions(folder: Path) -> None:
    former = calibrate_model(options(folder))
    progress = Recorder()
    plan = calibrate_model(options(folder, "kv-plan", kv_bytes_per_token=300.0), progress)
    assert progress.steps[1:] == ["2/2 Give each layer its KV precision"]
    assert plan.calibration is not None
    assert plan.calibration.target == {"kv_bytes_per_token": 300.0}
    assert plan.kv_bytes_per_token <= 300
    assert (plan.head_shares, plan.gate_measurement) == (
        former.head_shares,
        former.gate_measurement,
    )
    assert plan == plan_beside(folder)
    PagedModel(folder, precisions=plan.precisions)
    # And they stay when something else is measured.
    assert calibrate_model(options(folder, "gate")).precisions == plan.precisions


def test_precisions_of_the_users_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kv.json").write_text(json.dumps({"0-1": {"key": "u8", "value": "u4"}}))
    plan = calibrate_model(options(folder, kv_plan=str(tmp_path / "kv.json")))
    assert plan.precisions == (LayerPrecision("u8", "u4"),) * 2
    assert plan.gate_measurement is not None


def test_texts_of_the_users_own_are_recorded(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("The quick brown fox was not asked why it jumped. " * 400)
    before = calibrate_model(options(folder, "gate"))
    plan = calibrate_model(options(folder, "gate", texts=(str(tmp_path / "notes.txt"),)))
    assert plan.gate_measurement is not None
    assert before.gate_measurement is not None
    assert plan.gate_measurement.texts[0]["source"] == str(tmp_path / "notes.txt")
    assert plan.gate_measurement.texts[1:] == before.gate_measurement.texts


def test_a_plan_and_a_gate_of_another_model_are_replaced(
    folder: Path, needle_int8_dir: Path
) -> None:
    shutil.copy(needle_int8_dir / PLAN_FILE, folder)
    Gate((np.ones((4, 2), np.float32),), (np.ones(2, np.float32),), "another").save(folder)
    progress = Recorder()
    plan = calibrate_model(options(folder, "shares"), progress)
    assert plan == plan_beside(folder)
    assert len(plan.layers) == 2
    assert not (folder / GATE_FILE).exists()
    assert "written for another model than the IR beside it: it is replaced" in progress.notes[0]
    assert "made for another model than the IR beside it: it is removed" in progress.notes[1]


def test_a_damaged_plan_is_replaced(folder: Path) -> None:
    (folder / PLAN_FILE).write_text("{")
    progress = Recorder()
    assert calibrate_model(options(folder), progress) == plan_beside(folder)
    assert progress.notes[0].endswith("it is replaced")


def test_a_model_whose_states_are_not_found_gets_no_gate(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate_model(options(folder))
    monkeypatch.setattr("ov_kvcrush.runtime.model.paged_graph.find_key_states", lambda *_: None)
    progress = Recorder()
    plan = calibrate_model(options(folder), progress)
    assert plan.gate_measurement is None
    assert not (folder / GATE_FILE).exists()
    assert "the model gets no gate, and keeps distinct tokens" in progress.notes[-1]
    with pytest.raises(ExportError, match="nothing else was asked for"):
        calibrate_model(options(folder, "gate"))


def test_a_short_context_leaves_no_room_for_the_teacher(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    progress = Recorder()
    plan = calibrate_model(options(folder), progress)
    assert plan.gate_measurement is None
    assert "a context of 256 tokens is too short" in progress.notes[-1]


class TestAllOrNothing:
    def test_a_failure_before_the_first_file_takes_its_place(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = contents(folder)
        found = measure_model(options(folder))
        assert contents(folder) == before

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(ExportError, match="No space left on device") as caught:
            write_calibrated(folder, found)
        assert "unchanged" in caught.value.hint
        assert contents(folder) == before

    def test_the_gate_is_there_before_the_plan_that_tells_of_it(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = measure_model(options(folder))
        replaced = list[str]()
        replace = os.replace

        def killed(source: Any, target: Any) -> None:
            if replaced:
                raise KeyboardInterrupt
            replaced.append(Path(target).name)
            replace(source, target)

        monkeypatch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_calibrated(folder, found)
        assert replaced == [GATE_FILE]
        assert gate_beside(folder).digest == found.gate.digest if found.gate else False
        assert sorted(path.name for path in folder.glob("*.partial*")) == []

    def test_a_model_that_was_exchanged_meanwhile(self, folder: Path) -> None:
        found = measure_model(options(folder))
        graph = folder / "openvino_model.xml"
        graph.write_text(graph.read_text() + "<!-- -->")
        before = contents(folder)
        with pytest.raises(ExportError, match="became another one"):
            write_calibrated(folder, found)
        assert contents(folder) == before

    def test_who_has_the_model_loaded_is_not_disturbed(self, folder: Path) -> None:
        calibrate_model(options(folder))
        with (folder / GATE_FILE).open("rb") as stream:
            calibrate_model(options(folder, "gate"))
            assert len(stream.read()) == (folder / GATE_FILE).stat().st_size


def test_nothing_of_the_exports_packages_is_needed(folder: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(_HIDE.format(NOT_NEEDED))
    command = [sys.executable, "-m", "ov_kvcrush", "calibrate", str(folder), "--json"]
    process = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(hidden)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["gate_bytes"] == (folder / GATE_FILE).stat().st_size


def test_no_model_and_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        calibrate_model(options(tmp_path / "nowhere"))
    (folder / "openvino_tokenizer.xml").unlink()
    with pytest.raises(ModelError, match=r"holds no openvino_tokenizer\.xml"):
        calibrate_model(options(folder))
