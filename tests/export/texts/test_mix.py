"""What a gate is measured on: prose and code by turns, the user's own texts before them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export.texts.mix import CalibrationTexts, find_texts
from ov_kvcrush.export.texts.own_code import read_own_code
from ov_kvcrush.export.texts.texts import Text
from ov_kvcrush.export.texts.tokens import TextReader

LENGTH = 100


def by_character(text: str) -> list[int]:
    """A tokenizer for which every character is a token."""
    return [ord(character) for character in text]


def read(passages: list[list[int]]) -> list[str]:
    return ["".join(map(chr, passage)) for passage in passages]


def texts_of(prose: str, *code: str, given: tuple[str, ...] = ()) -> CalibrationTexts:
    return CalibrationTexts(
        tuple(Text(content, {}) for content in given),
        (Text(prose, {}),),
        tuple(Text(content, {}) for content in code),
    )


def test_three_of_prose_to_one_of_code_by_turns() -> None:
    texts = texts_of("p" * 3000, *["c" * 150] * 20)
    kinds = [passage[0] for passage in read(texts.passages(by_character, LENGTH, 16))]
    assert "".join(kinds) == "ppcp" * 4


def test_the_packages_own_texts_suffice_and_are_the_same_every_time() -> None:
    passages = find_texts().passages(by_character, 4000, 80)
    assert len(passages) >= 70
    assert passages == find_texts().passages(by_character, 4000, 80)
    assert len({tuple(passage) for passage in passages}) == len(passages)
    code = [passage for passage in read(passages[:40]) if "import annotations" in passage]
    assert len(code) == 10


def test_no_two_passages_share_a_part_of_the_text() -> None:
    text = "".join(chr(1000 + n) for n in range(2050))
    passages = read(texts_of(text, *["c" * 150] * 20).passages(by_character, LENGTH, 50))
    prose = [passage for passage in passages if passage[0] != "c"]
    assert len(set("".join(prose))) == len("".join(prose))
    # The rest of the text is half a passage, and counts as one.
    assert sorted(map(len, prose)) == [50, *[100] * 20]


def test_the_users_texts_come_first_and_the_packages_own_fill_up() -> None:
    texts = texts_of("p" * 3000, *["c" * 150] * 9, given=("u" * 250, "v" * 100))
    kinds = [passage[0] for passage in read(texts.passages(by_character, LENGTH, 8))]
    assert sorted(kinds[:4]) == ["u", "u", "u", "v"]
    assert "".join(kinds[4:]) == "ppcp"
    assert {passage[0] for passage in read(texts.passages(by_character, LENGTH, 4))} == {"u", "v"}


def test_a_long_text_is_sampled_all_over() -> None:
    book = "".join(chr(0x4E00 + n // 1000) for n in range(4_000_000))
    passages = read(texts_of("p", given=(book,)).passages(by_character, LENGTH, 100_000))
    assert len(passages) < 10_000
    assert {passage[0] for passage in passages} >= {chr(0x4E00), chr(0x4E00 + 3960)}


def test_files_are_recorded_by_name_and_digest(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("Note. " * 300)
    lines = [json.dumps({"text": "One. " * 100}), json.dumps("Two. " * 100)]
    (tmp_path / "mails.jsonl").write_text("\n".join(lines))
    names = [str(tmp_path / name) for name in ("notes.md", "mails.jsonl")]
    texts = find_texts(names)
    notes, mails, prose, code = texts.origins
    digests = [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names]
    assert (notes, mails) == tuple(
        {"source": name, "sha256": digest} for name, digest in zip(names, digests, strict=True)
    )
    assert texts.given[1].content == "One. " * 100 + "\n\n" + "Two. " * 100
    assert [prose["kind"], code["kind"]] == ["prose", "code"]
    assert texts.first.content == f"{texts.given[0].content}\n\n{texts.given[1].content}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Too short.", "the text to measure on has 10 characters, and at least 1,000"),
        (b"\xff\xfe" * 800, "is not UTF-8 text"),
        (b" \n" * 800, "holds no text"),
    ],
)
def test_a_file_that_tells_nothing_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        find_texts([str(tmp_path / "notes.txt")])
    assert "--texts" in caught.value.hint


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        find_texts([str(tmp_path / "nowhere.txt")])


def test_the_code_is_the_packages_own() -> None:
    code = read_own_code(20)
    assert len(code) == 20
    assert all(text.startswith('"""') and "import" in text for text in code)
    assert len(read_own_code(10_000)) > 40


def test_a_text_is_read_whole_whatever_the_tokenizer_cuts_off(needle_int8_dir: Path) -> None:
    reader = TextReader(needle_int8_dir)
    text = find_texts().prose[1].content
    tokens = reader.tokens(text)
    assert reader._tokenizer.decode(tokens) == text
    assert reader.lead == [1]
    assert reader.tokens("") == []
