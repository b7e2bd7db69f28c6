"""LongBench's rows (arXiv 2308.14508) put through its prompts, as its own code does it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError

# Its own files, under its own licence, which lies beside them.
_FOLDER = Path(__file__).parent
_TEMPLATES = _FOLDER / "prompts.json"
_ANSWER_TOKENS = _FOLDER / "answer_tokens.json"

# Examples to be continued, and code: LongBench asks for these without a chat template.
_CONTINUED = ("trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p")
# Its rows of even lengths; their tasks are the same.
_EVEN = "_e"

TEMPLATES = ("auto", "always", "never")


@dataclass(frozen=True)
class LongBenchPrompt:
    """One row as a prompt.

    Attributes:
        task: name of its data set.
        context: the prompt up to the end of what is asked about.
        question: the rest of the prompt.
        answers: right ones.
        classes: labels there are; empty where the task is not to name one.
        is_chat: it is a user's message, not a text to be continued.
        most_tokens: of an answer.
    """

    task: str
    context: str
    question: str
    answers: tuple[str, ...]
    classes: tuple[str, ...]
    is_chat: bool
    most_tokens: int

    @property
    def text(self) -> str:
        """All of it."""
        return self.context + self.question


@dataclass(frozen=True)
class LongBench:
    """Its prompt templates and answer lengths.

    Attributes:
        template: which prompts go through the model's chat template: ``"auto"`` is those that
            LongBench puts through it.

    Raises:
        ConfigError: ``template`` is not one of ``TEMPLATES``.
    """

    template: str = "auto"

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise ConfigError(
                f"--chat-template {self.template!r} is not one of {', '.join(TEMPLATES)}"
            )

    def prompt(self, row: Mapping[str, Any]) -> LongBenchPrompt:
        """The prompt of ``row``.

        Raises:
            ValueError: it lacks fields, or LongBench has no such task.
        """
        task, context, asked = row.get("dataset"), row.get("context"), row.get("input", "")
        if not isinstance(task, str) or not isinstance(context, str) or not isinstance(asked, str):
            raise ValueError("'dataset', 'context' and 'input' are not texts")
        task = task_of(task)
        template = _read(_TEMPLATES).get(task)
        if template is None:
            raise ValueError(f"{task!r} is not a task of LongBench")
        # What the texts spell in braces is theirs: nothing is filled in twice.
        before, _, behind = template.partition("{context}")
        is_chat = task not in _CONTINUED if self.template == "auto" else self.template == "always"
        return LongBenchPrompt(
            task=task,
            context=before + context,
            question=behind.replace("{input}", asked),
            answers=_texts(row, "answers"),
            classes=_texts(row, "all_classes"),
            is_chat=is_chat,
            most_tokens=_read(_ANSWER_TOKENS)[task],
        )


def task_of(name: str) -> str:
    """The task of the data set called ``name``, which may be that of its rows of even lengths."""
    return name.removesuffix(_EVEN)


def _texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    texts = row.get(name) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name!r} is not a list of texts")
    return tuple(texts)


@cache
def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
