"""A side in its own process: errors come out as themselves, and its death is one line."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ov_kvcrush.benchmark.side_process import SideProcess
from ov_kvcrush.benchmark.workload import Workload
from ov_kvcrush.errors import DeviceError, OVKVCrushError
from ov_kvcrush.progress import Silent
from tests.benchmark.test_contestants import setup_of


def test_an_error_of_the_engine_comes_out_as_itself(needle_int8_dir: Path) -> None:
    setup = replace(setup_of("genai", 0), model_dir=needle_int8_dir, device="NPU")
    with (
        SideProcess(setup) as side,
        pytest.raises(DeviceError, match="'NPU' is not a device of this machine") as caught,
    ):
        side.compile(Silent())
    assert caught.value.hint.startswith("Available:")


@pytest.mark.parametrize(
    ("number", "message"), [(signal.SIGSEGV, "crashed \\(SIGSEGV\\)"), (signal.SIGKILL, "killed")]
)
def test_a_side_that_dies_is_one_error(number: signal.Signals, message: str) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with SideProcess(setup_of("genai", 0)) as side:
        (process,) = _sides_that_started(before)
        os.kill(process.pid, number)
        with pytest.raises(OVKVCrushError, match=f"openvino_genai (was )?{message}"):
            side.measure(Workload(8, 1), turn=0)


def _sides_that_started(before: set[int]) -> list[psutil.Process]:
    """Those there are as soon as there is one: a process has its command a moment after its id."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if found := [c for c in psutil.Process().children() if _is_side(c, before)]:
            return found
        time.sleep(0.001)
    return []


def _is_side(process: psutil.Process, before: set[int]) -> bool:
    # multiprocessing may start a tracker of resources too
    return process.pid not in before and "spawn_main" in " ".join(process.cmdline())
