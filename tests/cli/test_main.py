from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
from typer.main import get_command

from ov_kvcrush import cli
from ov_kvcrush.errors import ModelError
from tests.support.paths import ROOT


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException, *flags: str) -> int:
    """Exit code of an export whose work raises ``error``."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ov_kvcrush.export.child_process.run_in_child", fail)
    return cli.run(["export", "-m", "model", "output", *flags])


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    assert "Usage: ov-kvcrush" in capsys.readouterr().out


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ov-kvcrush 0.")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example" in shown
    assert f"ov-kvcrush {command}" in shown.split("Example")[1]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_list_of_commands_says_what_their_own_help_says(command: str) -> None:
    module = importlib.import_module(f"ov_kvcrush.cli.commands.{command.replace('-', '_')}")
    help_text = get_command(module.app).help or ""
    assert cli.COMMANDS[command] == " ".join(help_text.split("\n\n")[0].split())


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = (
        "import sys; from ov_kvcrush.cli import run; run(['--help']); "
        "print([n for n in sys.modules if n.startswith('ov_kvcrush.cli.commands')], "
        "'numpy' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert shown.splitlines()[-1] == "[] False"


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in cli.COMMANDS)])
def test_help_imports_nothing_slow(arguments: list[str]) -> None:
    code = (
        "import sys; from ov_kvcrush.cli import run; run(sys.argv[1:]); "
        "print([n for n in ('torch', 'openvino', 'transformers', 'numba') if n in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert shown.splitlines()[-1] == "[]"


def test_an_unknown_command_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["exprot"]) == 2
    assert capsys.readouterr() == ("", "error: no such command: exprot\nDid you mean 'export'?\n")


def test_an_unknown_option_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["export", "-m", "model", "--weight-fromat", "int8", "output"]) == 2
    message, hint = capsys.readouterr().err.splitlines()
    assert message.startswith("error: No such option")
    assert hint == "Did you mean '--weight-format'?"


def test_a_missing_argument_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["export", "-m", "model"]) == 2
    message, hint = capsys.readouterr().err.splitlines()
    assert message.startswith("error: Missing argument")
    assert hint == "See: ov-kvcrush export --help"


def test_a_users_mistake_is_two_lines_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(monkeypatch, ModelError("what is wrong", "what to do")) == 2
    assert capsys.readouterr() == ("", "error: what is wrong\nwhat to do\n")


def test_an_unexpected_failure_is_one_line_and_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(monkeypatch, ZeroDivisionError("a surprise")) == 1
    message, hint = capsys.readouterr().err.splitlines()
    assert message == "error: unexpected ZeroDivisionError: a surprise"
    assert "-v" in hint


@pytest.mark.parametrize(
    ("error", "code"), [(ModelError("wrong"), 2), (ZeroDivisionError("surprise"), 1)]
)
def test_verbose_shows_the_traceback(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert raising(monkeypatch, error, "-v") == code
    assert "Traceback" in capsys.readouterr().err
    assert raising(monkeypatch, error) == code
    assert "Traceback" not in capsys.readouterr().err


def test_an_interrupt_is_code_130_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "interrupted: nothing was written to output\n")


def test_the_process_ends_with_the_exit_code() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "ov_kvcrush", "nothing"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("error: no such command: nothing\n")
