"""The export command where a package is not installed: it says which, and how to get it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

COMMAND = [sys.executable, "-m", "ov_kvcrush", "export"]

# Python imports sitecustomize at its start: here, to hide a package.
_HIDE = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == {!r} else find_spec(name, *rest)
"""


def without_package(package: str, tmp_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """An export on a machine where ``package`` is not installed."""
    (tmp_path / "sitecustomize.py").write_text(_HIDE.format(package))
    return subprocess.run(
        [*COMMAND, *flags, str(tmp_path / "output")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("package", ["torch", "nncf", "optimum"])
def test_the_missing_extra_is_named(package: str, tmp_path: Path) -> None:
    process = without_package(package, tmp_path, "-m", "model")
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        f"error: exporting needs the package {package}, which is missing",
        'Run: pip install "ov-kvcrush[export]"',
    ]


@pytest.mark.parametrize(
    "flags",
    [
        ["--weight-format", "int4", "--awq", "--dataset", "wikitext2:seq_len=64"],
        ["--kv-plan", "auto", "--kv-dataset", "wikitext2"],
    ],
)
def test_a_data_set_without_the_package_that_reads_it(
    model: Path, tmp_path: Path, flags: list[str]
) -> None:
    process = without_package("datasets", tmp_path, "-m", str(model), *flags)
    assert process.returncode == 2
    message, hint = process.stderr.splitlines()
    assert "the data set wikitext2 is read with the package datasets, which is" in message
    assert "pip install" in hint
