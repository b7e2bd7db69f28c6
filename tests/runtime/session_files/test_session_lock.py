"""The lock on a session file: between processes, and whatever happens to the file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ov_kvcrush.errors import SessionError
from ov_kvcrush.files import replacing
from ov_kvcrush.runtime.session_files.session_lock import session_lock
from tests.support.paths import ROOT
from tests.support.session_holder import HOLDER, held_elsewhere


@pytest.mark.parametrize("exists", [True, False])
def test_a_file_is_held_by_one_process(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "talk.safetensors"
    if exists:
        path.write_text("a session")
    with held_elsewhere(path) as process:
        with (
            pytest.raises(SessionError, match=rf"in use .*process {process.pid}\)") as refused,
            session_lock(path),
        ):
            pass
        assert refused.value.hint
        process.communicate("")
    with session_lock(path):
        pass
    assert os.listdir(tmp_path) == [path.name] * exists


def test_a_link_to_it_is_the_same_file(tmp_path: Path) -> None:
    path, link = tmp_path / "talk.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(path)
    with held_elsewhere(link), pytest.raises(SessionError, match="in use"), session_lock(path):
        pass


def test_a_holder_that_was_killed_blocks_nobody_and_its_lock_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "talk.safetensors"
    with held_elsewhere(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert os.listdir(tmp_path) == [".talk.safetensors.lock"]
        with session_lock(path):
            pass
    assert os.listdir(tmp_path) == []


def test_it_is_held_while_the_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "talk.safetensors"
    code = HOLDER.replace("    sys.stdin.read()", "")
    with session_lock(path):
        with session_lock(path), replacing(path) as stream:
            stream.write(b"anew")
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True
        )
        assert f"in use by another program (process {os.getpid()})" in done.stderr
    assert os.listdir(tmp_path) == [path.name]


def test_one_process_may_hold_it_in_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "talk.safetensors"
    failures: list[Exception] = []

    def hold() -> None:
        try:
            for _ in range(200):
                with session_lock(path):
                    pass
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(tmp_path) == []


def test_many_processes_take_turns_or_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "talk.safetensors"
    code = """
import sys
from pathlib import Path
from ov_kvcrush.errors import SessionError
from ov_kvcrush.runtime.session_files.session_lock import session_lock
path, count = Path(sys.argv[1]), Path(sys.argv[2])
done = 0
while done < 100:
    try:
        with session_lock(path):
            count.write_text(str(int(count.read_text()) + 1))
            done += 1
    except SessionError as error:
        assert "in use" in error.message, error
"""
    count = tmp_path / "count"
    count.write_text("0")
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(count)], cwd=ROOT)
        for _ in range(3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert count.read_text() == "300"
    assert os.listdir(tmp_path) == ["count"]


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(SessionError, match=r"cannot write .*: No such file"),
        session_lock(tmp_path / "nowhere" / "talk.safetensors"),
    ):
        pass
