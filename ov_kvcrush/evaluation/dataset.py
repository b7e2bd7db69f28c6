"""Conversations about long documents: read from JSON lines, checked, and chosen from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError, OVKVCrushError, did_you_mean
from ov_kvcrush.files import parse_json, read_text

SPLITS = ("all", "tune", "held")
KINDS = ("first", "later")
"""Of questions: asked with the document, or when the cache has been cut."""

_ACKNOWLEDGED = "Noted."


@dataclass(frozen=True)
class Example:
    """A conversation: questions about one document, each with the one right answer.

    Attributes:
        id: of this conversation alone in the file.
        task: name of the kind of questions.
        tokens: size of the document, as the file says it.
        turns: user messages, the first with the document, and right answers.
    """

    id: str
    task: str
    tokens: int
    turns: tuple[tuple[str, str], ...]

    def kind(self, turn: int) -> str | None:
        """Which of ``KINDS`` the question of ``turn`` is; None where it is not scored."""
        if turn:
            return "later"
        return None if self.turns[0][1].strip() == _ACKNOWLEDGED else "first"

    def num_asked(self, kind: str) -> int:
        """Questions of one of ``KINDS``."""
        return sum(self.kind(turn) == kind for turn in range(len(self.turns)))


def read_examples(path: Path) -> list[Example]:
    """The conversations in ``path``, one JSON object a line; empty lines are skipped.

    Raises:
        OVKVCrushError: the file cannot be read, or a line is not a conversation; names the line.
    """
    # Not splitlines, which also splits at characters that JSON allows in a text.
    lines = read_text(path).split("\n")
    known: dict[str, Example] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            example = _parse(line)
            if example.id in known:
                raise ValueError(f"the id {example.id!r} is that of an earlier line")
        except ValueError as error:
            raise OVKVCrushError(
                f"{path}, line {number}: {error}",
                'A line is {"id": TEXT, "task": TEXT, "tokens": NUMBER, '
                '"turns": [[QUESTION, ANSWER], ...]}.',
            ) from error
        known[example.id] = example
    if not known:
        raise OVKVCrushError(f"{path} holds no conversations")
    return list(known.values())


def choose_examples(
    examples: Sequence[Example],
    *,
    tasks: Sequence[str] = (),
    sizes: tuple[int, int] | None = None,
    split: str = "all",
    limit: int | None = None,
) -> list[Example]:
    """Those of ``tasks`` and ``sizes`` in ``split``, at most ``limit`` of them, in their order.

    What is chosen goes by the ids alone, so that adding to a file moves nothing from one half to
    the other.

    Args:
        examples: what there is.
        tasks: names; all where there are none.
        sizes: least and most tokens of a document.
        split: ``"tune"`` or ``"held"``: one half of the documents to decide with, the other half to
            report; ``"all"``.
        limit: takes so many at random, the same ones every time.

    Raises:
        ConfigError: an unknown task or split, or nothing is left.
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}", did_you_mean(split, SPLITS))
    known = {example.task for example in examples}
    for task in tasks:
        if task not in known:
            raise ConfigError(f"no conversation has the task {task!r}", did_you_mean(task, known))
    low, high = sizes or (0, max(c.tokens for c in examples))
    chosen = [
        c
        for c in examples
        if (not tasks or c.task in tasks)
        and low <= c.tokens <= high
        and split in ("all", half_of(c.id))
    ]
    if not chosen:
        raise ConfigError(
            f"the filters leave none of the {len(examples)} conversations",
            "Widen --tokens, --task or --split.",
        )
    drawn = sorted(chosen, key=lambda c: stable_number(f"draw {c.id}"))[:limit]
    taken = {c.id for c in drawn}
    return [c for c in chosen if c.id in taken]


def half_of(name: str) -> str:
    """Which half the document called ``name`` belongs to: ``"tune"`` or ``"held"``."""
    return "held" if stable_number(f"split {name}") % 2 else "tune"


def stable_number(text: str) -> int:
    """A number that looks random, the same for ``text`` every time."""
    # Python's own hash differs from process to process.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _parse(line: str) -> Example:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, not a JSON object")
    for name, kind in (("id", str), ("task", str), ("tokens", int), ("turns", list)):
        if name not in row:
            raise ValueError(f"{name!r} is missing")
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            raise ValueError(f"{name!r} is a {type(row[name]).__name__}; it takes {kind.__name__}")
    turns = tuple(_parse_turns(row["turns"]))
    example = Example(row["id"], row["task"], row["tokens"], turns)
    if not turns or not any(example.num_asked(kind) for kind in KINDS):
        raise ValueError("it has no question to score")
    return example


def _parse_turns(turns: list[Any]) -> Iterator[tuple[str, str]]:
    for number, turn in enumerate(turns, start=1):
        is_pair = isinstance(turn, list) and len(turn) == 2
        if not is_pair or not all(isinstance(text, str) and text.strip() for text in turn):
            raise ValueError(f"turn {number} is not a pair of question and answer")
        yield turn[0], turn[1]
