"""Conversations: what is read, what is refused, and which are chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.errors import ConfigError, OVKVCrushError
from ov_kvcrush.evaluation.dataset import (
    Example,
    choose_examples,
    read_examples,
)

ROW: dict[str, Any] = {
    "id": "one",
    "task": "quote",
    "tokens": 4000,
    "turns": [["A document. Who?", "Ann"], ["Where?", "Rome"]],
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def many(count: int) -> list[Example]:
    tasks = ("quote", "count")
    return [Example(f"c{n}", tasks[n % 2], 100 * n, (("q", "a"),)) for n in range(count)]


def test_a_file_is_read_line_by_line(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", ROW, ROW | {"id": "two"})
    path.write_text(path.read_text() + "\n")  # an empty line
    first, second = read_examples(path)
    assert first == Example("one", "quote", 4000, (("A document. Who?", "Ann"), ("Where?", "Rome")))
    assert second.id == "two"


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    row = ROW | {"turns": [["one\u2028two", "Ann"]]}
    path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert read_examples(path)[0].turns[0][0] == "one\u2028two"


def test_questions_are_first_or_later_and_an_acknowledgement_is_neither() -> None:
    asked = Example("a", "t", 1, (("q", "a"), ("q", "a"), ("q", "a")))
    noted = Example("b", "t", 1, (("q", "Noted."), ("q", "a")))
    assert [asked.kind(turn) for turn in range(3)] == ["first", "later", "later"]
    assert [noted.kind(turn) for turn in range(2)] == [None, "later"]
    assert (noted.num_asked("first"), noted.num_asked("later")) == (0, 1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "a list, not a JSON object"),
        ({k: v for k, v in ROW.items() if k != "task"}, "'task' is missing"),
        (ROW | {"tokens": "many"}, "'tokens' is a str; it takes int"),
        (ROW | {"turns": []}, "it has no question to score"),
        (ROW | {"turns": [["q", "Noted."]]}, "it has no question to score"),
        (ROW | {"turns": [["q", "a"], ["q"]]}, "turn 2 is not a pair of question and answer"),
        (ROW | {"turns": [["q", " "]]}, "turn 1 is not a pair of question and answer"),
        (ROW, "the id 'one' is that of an earlier line"),
    ],
)
def test_a_bad_line_is_one_error_with_its_number(tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path / "data.jsonl", ROW, row)
    with pytest.raises(OVKVCrushError) as caught:
        read_examples(path)
    assert caught.value.message == f"{path}, line 2: {reason}"
    assert "turns" in caught.value.hint


def test_a_file_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(OVKVCrushError, match=r"cannot read .*: No such file"):
        read_examples(tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(OVKVCrushError, match="holds no conversations"):
        read_examples(tmp_path / "empty")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(OVKVCrushError, match="not a text file in UTF-8"):
        read_examples(tmp_path / "bytes")


def test_the_halves_are_disjoint_and_stay_when_the_file_grows() -> None:
    every = many(400)
    tune = choose_examples(every, split="tune")
    held = choose_examples(every, split="held")
    assert sorted(c.id for c in [*tune, *held]) == sorted(c.id for c in every)
    assert 150 < len(tune) < 250
    assert choose_examples(every[:40], split="tune") == [c for c in tune if c in every[:40]]


def test_a_limit_takes_the_same_ones_in_the_files_order() -> None:
    every = many(50)
    ten = choose_examples(every, limit=10)
    assert len(ten) == 10
    assert ten == [c for c in every if c in ten]
    assert ten != every[:10]
    assert {c.id for c in ten} == {c.id for c in choose_examples(every[::-1], limit=10)}
    assert {c.id for c in choose_examples(every, limit=5)} < {c.id for c in ten}


def test_filters_add_up_and_sizes_are_inclusive() -> None:
    chosen = choose_examples(many(10), tasks=["count"], sizes=(300, 700))
    assert [c.tokens for c in chosen] == [300, 500, 700]


@pytest.mark.parametrize(
    ("filters", "message", "hint"),
    [
        ({"tasks": ["qoute"]}, "no conversation has the task 'qoute'", "Did you mean 'quote'?"),
        ({"split": "hold"}, "unknown split 'hold'", "Did you mean 'held'?"),
        ({"sizes": (5, 6)}, "the filters leave none of the 10 conversations", "Widen"),
    ],
)
def test_what_leaves_nothing_is_refused(filters: Any, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_examples(many(10), **filters)
    assert caught.value.message == message
    assert hint in caught.value.hint
