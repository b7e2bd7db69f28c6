"""LongBench's rows (arXiv 2308.14508) put through its prompts, as its own code does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError, OVKVCrushError
from ov_kvcrush.files import read_json

PROMPTS_FILE = "longbench-prompts.json"
LENGTHS_FILE = "longbench-maxlen.json"

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
        text: all of it.
        question: what follows the context in it.
        gold: the first of the right answers.
        is_chat: it is a user's message, not a text to be continued.
        most_tokens: of an answer; None does not bound it.
    """

    task: str
    text: str
    question: str
    gold: str
    is_chat: bool
    most_tokens: int | None


class LongBench:
    """Its prompt templates and answer lengths, which lie beside the rows.

    Args:
        folder: of the rows.
        template: which prompts go through the model's chat template: ``"auto"`` is those that
            LongBench puts through it.

    Raises:
        ConfigError: ``template`` is not one of ``TEMPLATES``.
    """

    def __init__(self, folder: Path, template: str = "auto") -> None:
        if template not in TEMPLATES:
            raise ConfigError(f"--chat-template {template!r} is not one of {', '.join(TEMPLATES)}")
        self.folder = folder
        self.template = template
        self._files: dict[str, dict[str, Any]] = {}

    def prompt(self, row: Mapping[str, Any]) -> LongBenchPrompt:
        """The prompt of ``row``.

        Raises:
            ValueError: it lacks fields, or there is no template for its task.
            OVKVCrushError: there are no templates beside the rows.
        """
        task, context, asked = row["dataset"], row["context"], row.get("input", "")
        if not all(isinstance(one, str) for one in (task, context, asked)):
            raise ValueError("'dataset', 'context' and 'input' are not texts")
        task = task.removesuffix(_EVEN)
        template = self._read(PROMPTS_FILE).get(task)
        if not isinstance(template, str) or "{context}" not in template:
            raise ValueError(f"{self.folder / PROMPTS_FILE} has no prompt for {task!r}")
        before, _, behind = template.partition("{context}")
        question = behind.replace("{input}", asked)
        most = self._read(LENGTHS_FILE).get(task)
        answers = row.get("answers") or [""]
        is_chat = self.template == "always"
        if self.template == "auto":
            is_chat = task not in _CONTINUED
        return LongBenchPrompt(
            task=task,
            text=f"{before}{context}{question}",
            question=question,
            gold=str(answers[0]),
            is_chat=is_chat,
            most_tokens=most if isinstance(most, int) and most > 0 else None,
        )

    def _read(self, name: str) -> dict[str, Any]:
        if name not in self._files:
            path = self.folder / name
            if not path.exists():
                raise OVKVCrushError(
                    f"rows of LongBench need {name} beside them",
                    f"Put LongBench's own file into {self.folder}.",
                )
            content = read_json(path)
            if not isinstance(content, dict):
                raise OVKVCrushError(f"{path} is not a JSON object")
            self._files[name] = content
        return self._files[name]
