from __future__ import annotations

import json
from pathlib import Path

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export.texts.text_file import SAMPLE_CHARACTERS, is_file_name, read_samples


def test_a_text_is_cut_at_white_space_and_nothing_is_lost(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(2000))
    (tmp_path / "book.txt").write_text(text)
    samples = read_samples(tmp_path / "book.txt")
    assert "".join(samples) == text
    assert max(map(len, samples)) <= SAMPLE_CHARACTERS
    assert all(sample[-1] == " " for sample in samples[:-1])


def test_a_word_longer_than_a_sample_does_not_stop_the_cutting(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("x" * (2 * SAMPLE_CHARACTERS + 5))
    assert [len(sample) for sample in read_samples(tmp_path / "line.txt")] == [
        SAMPLE_CHARACTERS,
        SAMPLE_CHARACTERS,
        5,
    ]


def test_samples_are_spread_over_the_whole_file(tmp_path: Path) -> None:
    lines = [json.dumps(f"sample {number}") for number in range(100)]
    (tmp_path / "samples.jsonl").write_text("\n".join(lines))
    samples = read_samples(tmp_path / "samples.jsonl", num_samples=4)
    assert samples == ["sample 0", "sample 25", "sample 50", "sample 75"]


def test_lines_of_json_are_strings_or_objects_with_text(tmp_path: Path) -> None:
    (tmp_path / "mixed.jsonl").write_text('"one"\n\n{"text": "two"}\n{"prompt": "three"}\n')
    assert read_samples(tmp_path / "mixed.jsonl") == ["one", "two", "three"]


def test_a_sample_is_never_longer_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "y" * 10_000}))
    assert [len(sample) for sample in read_samples(tmp_path / "long.jsonl")] == [SAMPLE_CHARACTERS]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b" \n ", "holds no text"),
        ("broken.jsonl", b'"good"\n{"text": ', "line 2 is not JSON"),
        ("other.jsonl", b'{"question": "?"}', "line 1 holds no text"),
        ("binary.txt", b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_files_without_text_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_samples(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_samples(tmp_path / "missing.txt")


@pytest.mark.parametrize("name", ["notes.txt", "./notes", "data/a.jsonl"])
def test_names_of_files_are_told(name: str) -> None:
    assert is_file_name(name)


@pytest.mark.parametrize("name", ["auto", "wikitext2", "wikitext2:seq_len=64", "c4-new"])
def test_names_of_data_sets_are_told(name: str) -> None:
    assert not is_file_name(name)
