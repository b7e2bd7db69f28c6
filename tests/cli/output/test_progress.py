"""The steps of a long command: how far one is, and how long it will take."""

from __future__ import annotations

import pytest

from ov_kvcrush.cli.output import progress as shown
from ov_kvcrush.cli.output.progress import StepProgress
from ov_kvcrush.progress import TimeLeft


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(shown, "TimeLeft", lambda: TimeLeft(lambda: now[0]))
    return now


def test_a_long_step_tells_the_time_left_in_lines_of_its_own(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with StepProgress("Check") as progress:
        progress.step(1, 2, "Read")
        clock[0] += 2
        progress.advance(0.5)  # too soon for a line
        progress.step(2, 2, "Fit the gate")
        for _ in range(4):
            clock[0] += 10
            progress.advance((clock[0] - 102) / 50)
        progress.note("A word.")
        clock[0] += 20
        progress.advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "[1/2] Read",
        "[2/2] Fit the gate",
        "      40 % · 30 s left",
        "      80 % · 10 s left",
        "note: A word.",
    ]
