"""A command's model is read while the command is imported, and OpenVINO stays whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ov_kvcrush.cli.early_reading import begin_reading_of
from ov_kvcrush.runtime.plugin import ir_file
from ov_kvcrush.runtime.plugin.ir_file import read_ir
from tests.support.paths import ROOT

WHAT_IS_LOADED = """
import sys
from ov_kvcrush.cli import run

code = run(sys.argv[1:])
print(code, "openvino.tools.ovc" in sys.modules)
import openvino
from openvino import convert_model
print(openvino.convert_model is convert_model, "openvino.tools.ovc" in sys.modules)
print(hasattr(openvino, "nothing_of_this_name"))
"""


@pytest.fixture(autouse=True)
def nothing_read_before() -> None:
    """What another test has begun to read is not told apart."""
    ir_file._ahead.clear()


def run_code(*arguments: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", WHAT_IS_LOADED, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


def test_the_model_among_the_arguments_is_read(needle_int8_dir: Path) -> None:
    begin_reading_of("chat", ["--prompt", "Hello", str(needle_int8_dir), "CPU"])
    assert len(ir_file._ahead) == 1
    read_ir(needle_int8_dir)
    assert not ir_file._ahead


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("inspect", ["MODEL"]), ("chat", ["MODEL", "--help"]), ("chat", ["", "\0", "x" * 5000])],
)
def test_nothing_is_read_where_no_model_is_going_to_run(
    needle_int8_dir: Path, command: str, arguments: list[str]
) -> None:
    named = [str(needle_int8_dir) if one == "MODEL" else one for one in arguments]
    begin_reading_of(command, named)
    assert not ir_file._ahead


def test_a_chat_imports_no_converter_and_whoever_asks_for_it_has_it(needle_int8_dir: Path) -> None:
    lines = run_code("chat", str(needle_int8_dir), "--prompt", "Hello", "--max-new-tokens", "2")
    assert lines[-3:] == ["0 False", "True True", "False"]
