"""Compiled loops are kept where they may be, and run where they may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core.caching import CacheImpl

from ov_kvcrush.runtime.pages.jit import compile_by_call, jit, private_folder, times_compiled


def add_one(x: int) -> int:
    return x + 1


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba may write neither beside the source nor to the user's folders."""
    given = [one for one in CacheImpl._locator_classes if "UserProvided" in one.__name__]
    assert given
    monkeypatch.setattr(CacheImpl, "_locator_classes", given)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")


def test_a_private_folder_is_the_users_alone_and_stays(tmp_path: Path) -> None:
    folder = private_folder(tmp_path)
    assert folder is not None
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder(tmp_path) == folder


def opened(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def linked(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


@pytest.mark.parametrize("prepare", [opened, linked, Path.touch])
def test_what_others_may_have_prepared_is_not_taken(
    tmp_path: Path, prepare: Callable[[Path], Any]
) -> None:
    folder = private_folder(tmp_path)
    assert folder is not None
    folder.rmdir()
    prepare(folder)
    assert private_folder(tmp_path) is None


def test_there_may_be_no_place_for_it(tmp_path: Path) -> None:
    assert private_folder(tmp_path / "missing") is None


@pytest.mark.usefixtures("nowhere")
def test_without_another_place_loops_are_kept_in_a_folder_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, again = jit(add_one), jit(add_one)
    assert (first(1), again(1)) == (2, 2)
    assert (times_compiled(first), times_compiled(again)) == (1, 0)
    assert list(tmp_path.glob("ov-kvcrush-*/**/*.nbi"))
    assert numba.config.CACHE_DIR == ""


@pytest.mark.usefixtures("nowhere")
def test_without_any_place_loops_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    first, again = jit(add_one), jit(add_one)
    assert (first(1), again(1)) == (2, 2)
    assert (times_compiled(first), times_compiled(again)) == (1, 1)


def test_a_loop_that_cannot_be_kept_runs_all_the_same() -> None:
    failures = [OSError("No space left on device"), OSError("No space left on device")]
    ran = []

    def loop(number: int) -> None:
        if failures:
            raise failures.pop()
        ran.append(number)

    compile_by_call(loop, 3)
    assert ran == [3]


def test_a_loop_that_never_runs_is_an_error() -> None:
    def loop() -> None:
        raise OSError("always")

    with pytest.raises(OSError, match="always"):
        compile_by_call(loop)
