"""``ov-kvcrush calibrate``: what it shows, what it refuses, and that it is all or nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ov_kvcrush.cli import run
from ov_kvcrush.cli.commands.calibrate import _spread
from ov_kvcrush.gate import GATE_FILE
from ov_kvcrush.plan import PLAN_FILE
from tests.support.commands import fails
from tests.support.foreign_model import save_foreign_model
from tests.support.paths import ROOT
from tests.support.terminal import CTRL_C, Terminal


@pytest.fixture
def model(plain_dir: Path, tmp_path: Path) -> Path:
    """A model as others publish it."""
    return shutil.copytree(plain_dir, tmp_path / "model")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a child."""
    here = lambda job, progress, verbose, name: job(progress)  # noqa: E731
    monkeypatch.setattr("ov_kvcrush.export.child_process.work_in_child", here)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_from_a_folder_to_the_next_command(
    model: Path, in_this_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["calibrate", str(model)]) == 0
    shown = capsys.readouterr()
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert lines[0] == str(model)
    assert lines[1] == "Model llama, 2 layers, 4 query / 2 KV heads of 16, context 512"
    (gate,) = (line for line in lines if line.startswith("Gate"))
    size = (model / GATE_FILE).stat().st_size / 1e3
    assert gate.startswith("Gate correlation with its teacher ")
    assert f" by layer), {size:,.0f} kB, 10 passages, " in gate
    assert gate.endswith("not gone by unless asked for, as the model repeats texts badly")
    assert lines[-2].startswith("Measured in ")
    assert lines[-1] == f"Next: ov-kvcrush chat {model} --max-cache-size 1024"
    assert "[3/3] Fit the gate" in shown.err


def test_every_number_can_be_had_as_json(
    model: Path, in_this_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["calibrate", str(model), "--only", "gate", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["gate_bytes"] == (model / GATE_FILE).stat().st_size
    assert len(summary["gate_measurement"]["correlation"]) == 2
    assert summary["share_measurement"] == {}
    assert not summary["is_estimate"]


def test_several_texts_behind_one_flag(
    model: Path, in_this_process: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(tmp_path / name) for name in ("a.md", "b.md")]
    for name in names:
        Path(name).write_text("Nobody asked the quick brown fox why it jumped. " * 60)
    assert run(["calibrate", "--only", "gate", "--json", "--texts", *names, str(model)]) == 0
    measured = json.loads(capsys.readouterr().out)["gate_measurement"]
    assert [text["source"] for text in measured["texts"][:2]] == names


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        ("model --texts a b", "model --texts a --texts b"),
        ("--texts a b --only gate model", "--texts a --texts b --only gate model"),
        ("--texts a --texts b model", "--texts a --texts b --texts model"),
        ("model -v", "model -v"),
    ],
)
def test_files_behind_a_flag_get_one_each(given: str, spread: str) -> None:
    assert _spread(given.split())[0] == spread.split()


class TestRefused:
    @pytest.fixture(autouse=True)
    def unchanged(self, model: Path, in_this_process: None) -> None:
        """Without a child."""

    def test_a_folder_of_something_else(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "no such model folder" in fails(capsys, "calibrate", str(tmp_path / "nowhere"))
        (tmp_path / "empty").mkdir()
        assert "holds no OpenVINO model" in fails(capsys, "calibrate", str(tmp_path / "empty"))
        (tmp_path / "model.gguf").touch()
        told = fails(capsys, "calibrate", str(tmp_path / "model.gguf"))
        assert f"ov-kvcrush export -m {tmp_path / 'model.gguf'} OUTPUT" in told

    def test_a_model_that_generates_no_text(
        self, model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_foreign_model(model)
        assert "is not a text-generation model" in _only_error(capsys, "calibrate", str(model))
        assert PLAN_FILE not in files(model)

    def test_unknown_measurements_and_short_texts(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        told = fails(capsys, "calibrate", str(model), "--only", "share")
        assert "Did you mean 'shares'?" in told
        (tmp_path / "short.txt").write_text("Short.")
        command = ["calibrate", str(model), "--texts", str(tmp_path / "short.txt")]
        assert "at least 1,000 are needed" in fails(capsys, *command)

    def test_a_folder_that_cannot_be_written(
        self, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.access", lambda path, mode: mode == os.R_OK)
        told = fails(capsys, "calibrate", str(model))
        assert f"no permission to write in {model}" in told

    def test_a_folder_in_the_place_of_the_plan(
        self, model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (model / PLAN_FILE).mkdir()
        assert "is a folder, in the place of a file" in fails(capsys, "calibrate", str(model))


def _only_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last lines on stderr of a command that ends with 2, behind its steps."""
    assert run([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err[err.index("error: ") :]


class TestStopped:
    def test_ctrl_c_leaves_the_folder_as_it_was(self, model: Path) -> None:
        before = files(model)
        with Terminal("calibrate", str(model)) as terminal:
            terminal.read_until("Fit the gate")
            terminal.type(CTRL_C)
            terminal.read_until(f"interrupted: nothing was written to {model}\n")
            assert terminal.wait() == 130
        assert files(model) == before

    def test_a_killed_child_leaves_the_folder_as_it_was(self, model: Path) -> None:
        before = files(model)
        command = [sys.executable, "-m", "ov_kvcrush", "calibrate", str(model)]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if "[2/3]" in line:
                    break
            (child,) = psutil.Process(process.pid).children()
            os.kill(child.pid, signal.SIGKILL)
            told = process.stderr.read()
        assert process.returncode == 2
        assert "the calibration was killed by the system" in told
        assert files(model) == before
