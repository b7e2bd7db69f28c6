"""What the shell may have done to a command's streams, arguments, variables and folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ov_kvcrush.cli import run
from ov_kvcrush.cli.output.errors import print_error
from ov_kvcrush.cli.process import check_environment
from ov_kvcrush.errors import ConfigError
from tests.support.commands import fails
from tests.support.paths import ROOT

COMMAND = f"{sys.executable} -m ov_kvcrush"


def in_shell(
    command: str, cwd: Path = ROOT, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """``command``, in which $CLI is ours."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLI": COMMAND, **(variables or {})}
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=environment, capture_output=True, timeout=120
    )


@pytest.mark.parametrize("arguments", ["--version", "--help", "chat --help"])
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
)
def test_what_cannot_be_written_is_said_with_code_2(
    arguments: str, redirection: str, reason: str
) -> None:
    done = in_shell(f"$CLI {arguments} {redirection}")
    assert done.returncode == 2
    message, hint = done.stderr.decode().splitlines()
    assert message == f"error: cannot write to stdout: {reason}"
    assert hint


@pytest.mark.parametrize("arguments", ["--version", "--help"])
def test_a_reader_that_has_gone_ends_a_command_as_sigpipe_does(arguments: str) -> None:
    done = in_shell(
        f"$CLI {arguments} | true; exit ${{PIPESTATUS[0]}}", variables={"PYTHONUNBUFFERED": "1"}
    )
    # true may be gone before or after the command has written
    assert done.returncode in (0, 141)
    assert done.stderr == b""
    done = in_shell(f"{{ sleep 0.5; $CLI {arguments}; echo $? >&2; }} | true")
    assert done.stderr.decode().strip() == "141"


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full"])
def test_an_error_that_cannot_be_said_changes_nothing_else(redirection: str) -> None:
    done = in_shell(f"$CLI nothing {redirection}")
    assert (done.returncode, done.stdout) == (2, b"")


def test_notes_that_cannot_be_said_do_not_cost_the_answer(needle_int8_dir: Path) -> None:
    chat = f"$CLI chat {needle_int8_dir} --prompt Hello --max-new-tokens 3"
    wanted = in_shell(f"{chat} <&-").stdout
    assert wanted.strip()
    for redirection in ("2>&-", "2> /dev/full", "<&- 2>&-"):
        done = in_shell(f"{chat} {redirection}")
        assert (done.returncode, done.stdout) == (0, wanted)


def test_closed_stdin_is_an_empty_one(needle_int8_dir: Path) -> None:
    done = in_shell(f"$CLI chat {needle_int8_dir} <&-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: nothing to answer: stdin is empty\n")


def test_no_file_takes_the_place_of_a_closed_stream(needle_int8_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.safetensors"
    chat = f"$CLI chat {needle_int8_dir} --max-new-tokens 3 --session {file}"
    assert in_shell(f"{chat} --prompt Hello >&- 2>&-").returncode == 2
    done = in_shell(f"{chat} --prompt Hello")
    assert done.returncode == 0
    assert b"Saved 2 messages" in done.stderr


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}, {"PYTHONUTF8": "0", "LC_ALL": "POSIX"}],
)
def test_a_character_that_stdout_does_not_have_costs_no_answer(variables: dict[str, str]) -> None:
    code = "from ov_kvcrush.cli.process import *; prepare_streams(); print('a\\U0001f642')"
    done = in_shell(f'{sys.executable} -c "{code}"', variables=variables)
    assert done.returncode == 0
    assert done.stdout.strip() in (b"a\\U0001f642", "a🙂".encode())


@pytest.mark.parametrize(
    "arguments",
    [["chat", "mo\udcffdel"], ["chat", "model", "--prompt", "\ud800"], ["\udcff"]],
)
def test_an_argument_that_is_not_text_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not text in UTF-8" in fails(capsys, *arguments)


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5"])
def test_a_variable_that_a_library_would_fail_on_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match=f"NUMBA_NUM_THREADS is '{value}'"):
        check_environment({"NUMBA_NUM_THREADS": value})
    variables = {"NUMBA_NUM_THREADS": "2", "TERMINAL_WIDTH": ""}
    check_environment(variables)
    assert variables == {"NUMBA_NUM_THREADS": "2"}


@pytest.mark.parametrize(
    "variables",
    [
        {"COLUMNS": "abc", "LINES": "-1"},
        {"TERM": "nonsense", "NO_COLOR": "1", "FORCE_COLOR": "1"},
        {"HOME": "/nowhere", "TMPDIR": "/nowhere"},
        {"OMP_NUM_THREADS": "abc"},
    ],
)
def test_nonsense_in_other_variables_is_harmless(variables: dict[str, str]) -> None:
    done = in_shell("$CLI --help", variables=variables)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_deleted_folder_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = in_shell(
        f"rmdir {gone}; $CLI crush model text.txt -o a.safetensors --max-cache-size 200", cwd=gone
    )
    assert done.returncode == 2
    assert b"unexpected" not in done.stderr


def test_an_error_is_broken_between_words_and_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/a/very/long/path-with-hyphens/" + "x" * 40
    monkeypatch.setenv("COLUMNS", "30")
    print_error(
        f"cannot read {path}: no such file", "Look for it elsewhere, or choose another one."
    )
    assert capsys.readouterr().err.count("\n") == 2
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    print_error(
        f"cannot read {path}: no such file", "Look for it elsewhere, or choose another one."
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["error: cannot read", f"{path}:", "no such file"]
    assert max(map(len, lines[3:])) <= 30


def test_python_m_is_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert in_shell("$CLI --version").stdout.decode() == capsys.readouterr().out
