"""A journal: kept line by line, whatever kills it, and for the one request that began it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.errors import JournalError
from ov_kvcrush.evaluation.asking.journal import open_journal
from ov_kvcrush.evaluation.asking.results import Cell, SampleResult, Scored
from tests.support.paths import ROOT

REQUEST: dict[str, Any] = {"model": "abc", "settings": ["known"], "suite": {"limit": 3}}


def result(number: int) -> SampleResult:
    answers = (Scored(f"Grüße {number}\n\ufffd", 1 / 3), Scored("", 0.0))
    cell = Cell("known", "default 1/4", 64, 63.5, 4096 + number, answers)
    return SampleResult(f"sample-{number}", "task", 300 + number, (cell, cell))


def write(path: Path, first: int, last: int) -> bytes:
    with open_journal(path, REQUEST) as journal:
        assert journal.results == [result(number) for number in range(first)]
        for number in range(first, last):
            journal.append(result(number))
    return path.read_bytes()


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    write(tmp_path / "journal", 0, 3)
    assert write(tmp_path / "journal", 3, 3).count(b"\n") == 4


def test_wherever_a_kill_breaks_it_off_the_run_goes_on_to_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = write(path, 0, 3)
    ends = [place for place, byte in enumerate(whole, start=1) if byte == ord("\n")]
    for place in {0, 1, *ends, *(end - 1 for end in ends), *range(5, len(whole), 17)}:
        path.write_bytes(whole[:place])
        num_left = max(0, sum(end <= place for end in ends) - 1)
        assert write(path, num_left, 3) == whole


@pytest.mark.parametrize(
    ("request_of", "names"),
    [
        ({**REQUEST, "model": "abd"}, "model"),
        ({**REQUEST, "settings": [], "suite": {"limit": 4}}, "settings, suite"),
        ({**REQUEST, "new": 1}, "new"),
        ({"model": "abc", "settings": ["known"]}, "suite"),
    ],
)
def test_a_journal_of_another_request_is_refused_and_left_alone(
    tmp_path: Path, request_of: dict[str, Any], names: str
) -> None:
    path = tmp_path / "journal"
    whole = write(path, 0, 1)
    with (
        pytest.raises(JournalError, match=f"which differs in {names}\n"),
        open_journal(path, request_of),
    ):
        pass
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"notes", b"notes\n", b'{"id": 1}\n', b"[1]\n2\n", b"\n"])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(JournalError, match="is not a journal"), open_journal(path, REQUEST):
        pass
    assert path.read_bytes() == content


def test_a_damaged_line_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = write(path, 0, 3)
    for damaged in (b'{"id": "a"}', b"{", b"[]", b""):
        lines = whole.split(b"\n")
        lines[2] = damaged
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(JournalError, match="line 3 is not"), open_journal(path, REQUEST):
            pass
        assert path.read_bytes() == b"\n".join(lines)


def test_it_is_one_runs_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with open_journal(path, REQUEST) as journal:
        with pytest.raises(JournalError, match="in use by another run"):
            write(path, 0, 0)
        journal.append(result(0))
    write(path, 1, 2)


def test_a_killed_process_leaves_it_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.evaluation.asking.test_journal import REQUEST, open_journal, result\n"
        "with open_journal(Path(sys.argv[1]), REQUEST) as journal:\n"
        "    journal.append(result(0))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    write(path, 1, 2)


@pytest.mark.parametrize("place", ["missing/journal", ".", "a\0b"])
def test_where_nothing_can_be_written_is_said(tmp_path: Path, place: str) -> None:
    with pytest.raises(JournalError, match="cannot write"), open_journal(tmp_path / place, REQUEST):
        pass
