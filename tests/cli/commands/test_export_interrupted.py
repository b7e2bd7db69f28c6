"""An export that is stopped or killed while it calibrates: what was there before is there after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.paths import ROOT
from tests.support.terminal import CTRL_C, Terminal

OLD = "an old model"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder with a model in it."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "openvino_model.xml").write_text(OLD)
    return tmp_path / "output"


@contextmanager
def calibrating(model: Path, output: Path) -> Iterator[subprocess.Popen[str]]:
    """An export to ``output`` that has come to its calibration."""
    command = [sys.executable, "-m", "ov_kvcrush", "export", "-m", str(model), str(output)]
    with subprocess.Popen(
        [*command, "--overwrite"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "Fit the gate" in line:
                break
        yield process


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive


def test_progress_is_shown_and_ctrl_c_leaves_the_old_model(
    tiny_source_dir: Path, output: Path
) -> None:
    arguments = ["-m", str(tiny_source_dir), str(output), "--overwrite"]
    with Terminal("export", *arguments) as terminal:
        # A bar that is filled in part: where no share is known, all of it is drawn alike.
        terminal.read_until("Fit the gate +━+[╸╺]")
        assert len(os.listdir(output)) == 2
        terminal.type(CTRL_C)
        terminal.read_until(f"interrupted: nothing was written to {output}\n")
        assert terminal.wait() == 130
    assert os.listdir(output) == ["openvino_model.xml"]
    assert (output / "openvino_model.xml").read_text() == OLD


def test_a_killed_calibration_takes_its_child_along(tiny_source_dir: Path, tmp_path: Path) -> None:
    with calibrating(tiny_source_dir, tmp_path / "new") as process:
        children = psutil.Process(process.pid).children()
        process.kill()
        wait_until_gone(children)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_calibration_leaves_is_removed_by_the_next(
    tiny_source_dir: Path, output: Path
) -> None:
    with calibrating(tiny_source_dir, output) as process:
        children = psutil.Process(process.pid).children()
        os.kill(process.pid, signal.SIGSTOP)  # or it would clear up after its child
        for child in children:
            child.kill()
        process.kill()
    wait_until_gone(children)
    assert len(os.listdir(output)) == 2
    assert (output / "openvino_model.xml").read_text() == OLD
    # Even a run that goes no further than its first checks.
    command = [sys.executable, "-m", "ov_kvcrush", "export", "-m", str(tiny_source_dir)]
    again = subprocess.run([*command, str(output)], cwd=ROOT, capture_output=True, text=True)
    assert "exists and is not empty" in again.stderr
    assert os.listdir(output) == ["openvino_model.xml"]
