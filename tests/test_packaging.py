"""What a wheel holds: its packages are listed by hand, and an editable install hides a gap."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDERS = {
    "ov_kvcrush": "ov_kvcrush",
    "export": "ov_kvcrush.export",
    "runtime": "ov_kvcrush.runtime",
}


@pytest.fixture(scope="module")
def setuptools() -> dict[str, Any]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    settings: dict[str, Any] = tomllib.loads(text)["tool"]["setuptools"]
    return settings


def package_of(folder: Path) -> str:
    top, *rest = folder.relative_to(ROOT).parts
    return ".".join([FOLDERS[top], *rest])


def test_every_folder_is_a_package_and_every_package_is_listed(setuptools: dict[str, Any]) -> None:
    modules = [path for top in FOLDERS for path in (ROOT / top).rglob("*.py")]
    folders = {path.parent for path in modules}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
    assert sorted(setuptools["packages"]) == sorted(map(package_of, folders))


def test_every_file_that_is_no_module_is_package_data(setuptools: dict[str, Any]) -> None:
    others = [
        path
        for top in FOLDERS
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    ]
    assert others
    for path in others:
        patterns = setuptools["package-data"].get(package_of(path.parent), [])
        assert any(path.match(pattern) for pattern in patterns), path
