"""Texts to measure fidelity on: plain ones, conversations, and rows of LongBench."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError, OVKVCrushError, did_you_mean
from ov_kvcrush.evaluation.dataset import half_of
from ov_kvcrush.evaluation.rotation import one_of_each
from ov_kvcrush.evaluation.suites.longbench.prompts import LongBench
from ov_kvcrush.files import parse_json, read_text

_LINES = (".jsonl", ".ndjson")
_SAYS_NOTHING = "Noted."


@dataclass(frozen=True)
class Text:
    """What a model is to read.

    Attributes:
        id: of this text alone in the file.
        task: name of its kind.
        content: a text, or messages for the chat template.
        question: what ``content``, or its last message, ends with and a cache that is cut before
            the question has not read; empty for none.
        gold: a right answer; empty where none is known.
        is_passage: it may be cut into passages, each of which goes on with the next tokens.
        most_tokens: of an answer; None does not bound it.
    """

    id: str
    task: str
    content: str | tuple[Mapping[str, Any], ...]
    question: str = ""
    gold: str = ""
    is_passage: bool = False
    most_tokens: int | None = None


def read_texts(path: Path, longbench: LongBench) -> list[Text]:
    """The texts in ``path``: one JSON object a line where its name says so, else one text.

    A line is ``{"text": TEXT}``, ``{"messages": [...]}``, a row of LongBench with its own fields,
    or a conversation as ``--suite needle`` takes it. ``id``, ``task`` and ``answer`` may stand
    beside text and messages.

    Args:
        path: to read.
        longbench: turns its rows into prompts.

    Raises:
        OVKVCrushError: the file cannot be read, or a line is none of these; names the line.
    """
    content = read_text(path)
    if path.suffix.lower() not in _LINES:
        if not content.strip():
            raise OVKVCrushError(f"{path} holds no text")
        return [Text(path.name, path.stem, content, is_passage=True)]
    texts: dict[str, Text] = {}
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            text = _parse(line, f"line {number}", longbench)
            if text.id in texts:
                raise ValueError(f"the id {text.id!r} is that of an earlier line")
        except ValueError as error:
            raise OVKVCrushError(
                f"{path}, line {number}: {error}",
                'A line is {"text": TEXT}, {"messages": [...]}, a row of LongBench, or '
                '{"id": TEXT, "task": TEXT, "turns": [[QUESTION, ANSWER], ...]}.',
            ) from error
        texts[text.id] = text
    if not texts:
        raise OVKVCrushError(f"{path} holds no texts")
    return list(texts.values())


def in_turn(texts: Sequence[Text], tasks: Sequence[str] = (), split: str = "all") -> list[Text]:
    """Those of ``tasks`` (all where there are none) in ``split``, one of each task after the other.

    Within a task the order is random and the same every time: as many of them as one likes, from
    the front, are a fair sample.

    Raises:
        ConfigError: an unknown task, or nothing is left.
    """
    known = {text.task for text in texts}
    for task in tasks:
        if task not in known:
            raise ConfigError(f"no text has the task {task!r}", did_you_mean(task, known))
    chosen = one_of_each(
        text
        for text in texts
        # Passages of one text are halved when they are made.
        if (not tasks or text.task in tasks)
        and (text.is_passage or split in ("all", half_of(text.id)))
    )
    if not chosen:
        raise ConfigError(
            f"the filters leave none of the {len(texts)} texts", "Widen --task or --split."
        )
    return chosen


def _parse(line: str, name: str, longbench: LongBench) -> Text:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, not a JSON object")
    if "context" in row and "dataset" in row:
        return _from_longbench(row, name, longbench)
    if "turns" in row:
        return _from_turns(row, name)
    if "messages" in row:
        return _from_messages(row, name)
    text = _text_of(row, "text")
    gold = _text_of(row, "answer", "")
    return Text(
        _text_of(row, "id", name), _text_of(row, "task", "text"), text, gold=gold, is_passage=True
    )


def _from_longbench(row: dict[str, Any], name: str, longbench: LongBench) -> Text:
    prompt = longbench.prompt(row)
    content: str | tuple[Mapping[str, Any], ...] = prompt.text
    if prompt.is_chat:
        content = ({"role": "user", "content": prompt.text},)
    return Text(
        _text_of(row, "_id", name),
        prompt.task,
        content,
        question=prompt.question,
        gold=prompt.answers[0] if prompt.answers else "",
        most_tokens=prompt.most_tokens,
    )


def _from_messages(row: dict[str, Any], name: str) -> Text:
    messages = row["messages"]
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise ValueError("'messages' is not a list of messages")
    gold = _text_of(row, "answer", "")
    if messages and messages[-1].get("role") == "assistant":
        gold = gold or str(messages[-1].get("content") or "")
        messages = messages[:-1]
    users = [message for message in messages if message.get("role") == "user"]
    if not users or messages[-1] is not users[-1] or not isinstance(users[-1].get("content"), str):
        raise ValueError("it does not end with a user's message, or one and its answer")
    question = users[-1]["content"] if len(users) > 1 else ""
    names = _text_of(row, "id", name), _text_of(row, "task", "chat")
    return Text(*names, tuple(messages), question=question, gold=gold)


def _from_turns(row: dict[str, Any], name: str) -> Text:
    turns = list(_turns(row["turns"]))
    messages = []
    for question, answer in turns:
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        if answer.strip() != _SAYS_NOTHING:
            break
    # The document stands before the question, in a paragraph of its own.
    text = _from_messages({**row, "messages": messages}, name)
    asked = messages[-2]["content"]
    _, _, last = asked.rstrip().rpartition("\n")
    return text if text.question else _with_question(text, last)


def _with_question(text: Text, question: str) -> Text:
    return Text(text.id, text.task, text.content, question=question, gold=text.gold)


def _turns(turns: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(turns, list) or not turns:
        raise ValueError("'turns' is not a list of pairs")
    for number, turn in enumerate(turns, start=1):
        is_pair = isinstance(turn, list) and len(turn) == 2
        if not is_pair or not all(isinstance(text, str) and text.strip() for text in turn):
            raise ValueError(f"turn {number} is not a pair of question and answer")
        yield turn[0], turn[1]


def _text_of(row: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if value is None:
        raise ValueError(f"{name!r} is missing")
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise ValueError(f"{name!r} is not a text")
    return value
