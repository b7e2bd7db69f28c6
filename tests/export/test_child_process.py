from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ov_kvcrush.errors import ConfigError, ExportError
from ov_kvcrush.export import ExportOptions, Progress
from ov_kvcrush.export.child_process import ChildError, run_in_child
from ov_kvcrush.export.workspace import open_workspace
from ov_kvcrush.plan import KVPlan, LayerGeometry
from ov_kvcrush.precisions import LayerPrecision

PLAN = KVPlan("llama", "", (LayerGeometry(2, 1, 8, 8),), (LayerPrecision("u8", "u8"),), 24.0, 64)


class Recorder:
    def __init__(self) -> None:
        self.told: list[object] = []

    def step(self, number: int, total: int, title: str) -> None:
        self.told.append((number, total, title))

    def advance(self, share: float) -> None:
        self.told.append(share)

    def note(self, text: str) -> None:
        self.told.append(text)


class Interrupting(Recorder):
    """Ctrl+C as soon as the first step begins."""

    def step(self, number: int, total: int, title: str) -> None:
        raise KeyboardInterrupt


def succeed(options: ExportOptions, progress: Progress) -> KVPlan:
    print("noise")
    os.write(2, b"noise from C++")
    progress.step(1, 2, "One")
    progress.advance(0.5)
    progress.note("Attention")
    return PLAN


def fail(options: ExportOptions, progress: Progress) -> KVPlan:
    raise ConfigError("a reason", "a hint")


def break_down(options: ExportOptions, progress: Progress) -> KVPlan:
    raise ZeroDivisionError("a surprise")


def be_killed(options: ExportOptions, progress: Progress) -> KVPlan:
    with open_workspace(options.output) as workspace:
        (workspace.model / "openvino_model.bin").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return PLAN


def abort(options: ExportOptions, progress: Progress) -> KVPlan:
    os.write(2, b"terminate called\n")
    os.abort()


def crash_in_a_step(options: ExportOptions, progress: Progress) -> KVPlan:
    progress.step(1, 2, "Read it")
    os.write(2, b"noise\nfree(): invalid pointer\n")
    os.abort()


def take_long(options: ExportOptions, progress: Progress) -> KVPlan:
    with open_workspace(options.output):
        progress.step(1, 1, "Endless")
        signal.pause()
    return PLAN


@pytest.fixture
def options(tmp_path: Path) -> ExportOptions:
    return ExportOptions(model="model", output=tmp_path / "output")


def test_result_and_progress_come_back_and_noise_does_not(
    options: ExportOptions, capfd: pytest.CaptureFixture[str]
) -> None:
    progress = Recorder()
    assert run_in_child(succeed, options, progress) == PLAN
    assert progress.told == [(1, 2, "One"), 0.5, "Attention"]
    assert capfd.readouterr() == ("", "")


def test_errors_come_back_with_their_hint(options: ExportOptions) -> None:
    with pytest.raises(ConfigError) as caught:
        run_in_child(fail, options, Recorder())
    assert (caught.value.message, caught.value.hint) == ("a reason", "a hint")


def test_an_unexpected_error_comes_back_with_its_traceback(options: ExportOptions) -> None:
    with pytest.raises(ChildError) as caught:
        run_in_child(break_down, options, Recorder())
    assert "in break_down" in str(caught.value)
    assert str(caught.value).endswith("ZeroDivisionError: a surprise")


def test_a_killed_child_is_explained_and_cleared_up(options: ExportOptions) -> None:
    with pytest.raises(ExportError, match="want of memory"):
        run_in_child(be_killed, options, Recorder())
    assert os.listdir(options.output.parent) == []


def test_the_last_words_of_an_aborted_child_are_kept(options: ExportOptions) -> None:
    with pytest.raises(ChildError) as caught:
        run_in_child(abort, options, Recorder())
    assert "terminate called" in str(caught.value)
    assert str(caught.value).endswith(f"ended with code {-signal.SIGABRT}")


def test_a_crash_in_a_library_is_told_in_a_line(options: ExportOptions) -> None:
    with pytest.raises(ExportError) as caught:
        run_in_child(crash_in_a_step, options, Recorder())
    assert caught.value.message == (
        "a library crashed at the step 'Read it' of the export: free(): invalid pointer"
    )
    assert "damaged" in caught.value.hint


def test_an_interrupt_ends_the_child_and_clears_up(options: ExportOptions) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_in_child(take_long, options, Interrupting())
    assert os.listdir(options.output.parent) == []
