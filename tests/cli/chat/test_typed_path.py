"""File names as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ov_kvcrush.cli.chat.typed_path import read_path, read_path_and_rest
from ov_kvcrush.errors import OVKVCrushError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where we are, and at home; with files of odd names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("plain.txt", "my file.txt", "don't.txt"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "name", "rest"),
    [
        ("plain.txt", "plain.txt", ""),
        ("plain.txt What is it?", "plain.txt", "What is it?"),
        ("plain.txt  first\nsecond  'third", "plain.txt", "first\nsecond  'third"),
        ("my file.txt", "my file.txt", ""),
        ('"my file.txt"', "my file.txt", ""),
        ("'my file.txt' ", "my file.txt", ""),
        (r"my\ file.txt", "my file.txt", ""),
        ('"my file.txt" What is it?', "my file.txt", "What is it?"),
        ("don't.txt", "don't.txt", ""),
        ('"don\'t.txt" What?', "don't.txt", "What?"),
        ("missing.txt", "missing.txt", ""),
        ("#hash.txt", "#hash.txt", ""),
    ],
)
def test_a_name_is_read_as_in_a_shell_or_as_it_is(
    folder: Path, typed: str, name: str, rest: str
) -> None:
    assert read_path_and_rest(typed) == (Path(name), rest)


@pytest.mark.parametrize("typed", ["~/my file.txt", '"~/my file.txt"', "~/my\\ file.txt"])
def test_a_tilde_is_the_home(folder: Path, typed: str) -> None:
    assert read_path_and_rest(typed) == (folder / "my file.txt", "")
    assert read_path(typed) == folder / "my file.txt"


def test_nobodys_home_is_a_name_like_others(folder: Path) -> None:
    assert read_path("~nobody-here/x.txt") == Path("~nobody-here/x.txt")


def test_a_quote_that_is_not_closed_is_told(folder: Path) -> None:
    with pytest.raises(OVKVCrushError, match="a quote is not closed") as error:
        read_path_and_rest('"my file.txt What is it?')
    assert "two quotes" in error.value.hint


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("talk.json", "talk.json"),
        ("my talk.json", "my talk.json"),
        ('"my talk.json"', "my talk.json"),
        (r"my\ talk.json", "my talk.json"),
        ("don't.json", "don't.json"),
        ("don't.txt", "don't.txt"),
    ],
)
def test_a_name_alone_needs_no_quotes(folder: Path, typed: str, name: str) -> None:
    assert read_path(typed) == Path(name)


def test_a_name_that_no_file_can_have_is_only_a_name(folder: Path) -> None:
    long = "a" * 5000
    assert read_path_and_rest(f"{long} b") == (Path(long), "b")
    assert read_path(long) == Path(long)
