"""Texts: what is read, what is refused, and in which order they come."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.errors import ConfigError, OVKVCrushError
from ov_kvcrush.evaluation.dataset import half_of
from ov_kvcrush.evaluation.fidelity.texts import Text, in_turn, read_texts
from ov_kvcrush.evaluation.suites.longbench.prompts import LongBench
from ov_kvcrush.evaluation.suites.longbench.rows import SHIPPED_ROWS


def read(path: Path, *rows: Any, template: str = "auto") -> list[Text]:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return read_texts(path, LongBench(template))


def test_a_file_that_is_not_of_lines_is_one_text(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text("Once\nupon a time.")
    (text,) = read_texts(path, LongBench())
    assert (text.id, text.task, text.content) == ("story.txt", "story", "Once\nupon a time.")
    assert text.is_passage
    path.write_text(" \n")
    with pytest.raises(OVKVCrushError, match="holds no text"):
        read_texts(path, LongBench())


def test_lines_are_texts_and_conversations(tmp_path: Path) -> None:
    user, reply = {"role": "user", "content": "A tale."}, {"role": "assistant", "content": "Fine."}
    asked = {"role": "user", "content": "Who?"}
    text, named, chat, single = read(
        tmp_path / "data.jsonl",
        {"text": "A text."},
        {"id": "mine", "task": "law", "text": "A text.", "answer": "right"},
        {"messages": [user, reply, asked, {"role": "assistant", "content": "Ann"}]},
        {"messages": [user], "answer": "yes"},
    )
    assert (text.id, text.task, text.gold) == ("line 1", "text", "")
    assert (named.id, named.task, named.gold) == ("mine", "law", "right")
    assert chat.content == (user, reply, asked)
    assert (chat.question, chat.gold, chat.is_passage) == ("Who?", "Ann", False)
    # What a single message asks cannot be told from what it asks about.
    assert (single.question, single.gold) == ("", "yes")


def test_conversations_for_accuracy_end_with_their_first_scored_question(tmp_path: Path) -> None:
    names = {"id": "a", "task": "t", "tokens": 9}
    document = "A document.\n\nWho did it?"
    first, later = read(
        tmp_path / "data.jsonl",
        {**names, "turns": [[document, "Ann"], ["Where?", "Rome"]]},
        {**names, "id": "b", "turns": [[document, "Noted."], ["Where?", "Rome"], ["Why?", "x"]]},
    )
    assert (first.question, first.gold, len(first.content)) == ("Who did it?", "Ann", 1)
    assert (later.question, later.gold, len(later.content)) == ("Where?", "Rome", 3)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "a list, not a JSON object"),
        ({}, "'text' is missing"),
        ({"text": 3}, "'text' is not a text"),
        ({"text": "a", "id": 3}, "'id' is not a text"),
        ({"messages": "a"}, "'messages' is not a list of messages"),
        ({"messages": []}, "it does not end with a user's message, or one and its answer"),
        ({"messages": [{"role": "system", "content": "a"}]}, "it does not end with a user's"),
        ({"turns": [["q"]]}, "turn 1 is not a pair of question and answer"),
        ({"text": "a", "id": "line 1"}, "the id 'line 1' is that of an earlier line"),
    ],
)
def test_a_bad_line_is_one_error_with_its_number(tmp_path: Path, row: Any, reason: str) -> None:
    with pytest.raises(OVKVCrushError) as caught:
        read(tmp_path / "data.jsonl", {"text": "fine"}, row)
    assert caught.value.message.startswith(f"{tmp_path / 'data.jsonl'}, line 2: {reason}")


def test_longbench_rows_go_through_its_prompts() -> None:
    texts = read_texts(SHIPPED_ROWS, LongBench())
    assert len(texts) == 55
    assert set(Counter(text.task for text in texts).values()) == {3, 4}
    by_task = {text.task: text for text in texts}
    asked = by_task["2wikimqa"]
    assert isinstance(asked.content, tuple)
    ((_, role), (_, content)) = asked.content[0].items()
    assert role == "user"
    assert content.startswith("Answer the question based on the given passages.")
    assert content.endswith(asked.question)
    assert asked.question.endswith("\nAnswer:")
    assert "{" not in asked.question
    assert asked.gold
    assert asked.most_tokens == 32
    # Examples to be continued, and code.
    for task in ("trec", "triviaqa", "samsum", "lcc", "repobench-p"):
        assert isinstance(by_task[task].content, str)
    never = read_texts(SHIPPED_ROWS, LongBench("never"))
    always = read_texts(SHIPPED_ROWS, LongBench("always"))
    assert all(isinstance(text.content, str) for text in never)
    assert all(isinstance(text.content, tuple) for text in always)


def test_longbench_rows_of_even_lengths_are_of_the_same_tasks(tmp_path: Path) -> None:
    row = json.loads(SHIPPED_ROWS.read_text(encoding="utf-8").split("\n")[0])
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row | {"dataset": f"{row['dataset']}_e"}))
    assert read_texts(path, LongBench())[0].task == row["dataset"]
    path.write_text(json.dumps(row | {"dataset": "other"}))
    with pytest.raises(OVKVCrushError, match="'other' is not a task of LongBench"):
        read_texts(path, LongBench())


def test_braces_in_a_text_are_text(tmp_path: Path) -> None:
    row = {"dataset": "lcc", "context": "x = {input} {context}\n", "input": "", "answers": ["y"]}
    (text,) = read(tmp_path / "rows.jsonl", row)
    assert text.content == (
        "Please complete the code given below. \nx = {input} {context}\nNext line of code:\n"
    )
    assert text.question == "Next line of code:\n"


def many(count: int) -> list[Text]:
    return [Text(f"t{n}", ("law", "code", "news")[min(n, 4) % 3], "a") for n in range(count)]


def test_tasks_come_in_turn_and_the_order_stays_when_the_file_grows() -> None:
    texts = in_turn(many(30))
    assert [text.task for text in texts[:4]] == ["code", "law", "news", "code"]
    assert sorted(text.id for text in texts) == sorted(text.id for text in many(30))
    more = [text.id for text in in_turn(many(60)) if text in many(30)]
    for task in ("law", "code", "news"):
        ours = [text.id for text in texts if text.task == task]
        assert [name for name in more if name in ours] == ours
    assert in_turn(many(30)[::-1]) == texts


def test_tasks_and_halves_are_chosen() -> None:
    assert {text.task for text in in_turn(many(30), ["law"])} == {"law"}
    tune = {text.id for text in in_turn(many(30), split="tune")}
    held = {text.id for text in in_turn(many(30), split="held")}
    assert not tune & held
    assert len(tune | held) == 30
    assert all(half_of(name) == "tune" for name in tune)
    with pytest.raises(ConfigError, match="no text has the task 'lew'"):
        in_turn(many(30), ["lew"])
    with pytest.raises(ConfigError, match="the filters leave none"):
        in_turn([], [])
