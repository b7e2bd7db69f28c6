"""What came out: answers of a conversation, and of all conversations with one configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.dataset import KINDS, Example


@dataclass(frozen=True)
class ScoredAnswer:
    """What the model said to one user message.

    Attributes:
        kind: of the question; None is not scored.
        text: without the spaces around it.
        is_right: whether it is exactly the right answer.
    """

    kind: str | None
    text: str
    is_right: bool


@dataclass(frozen=True)
class Record:
    """One conversation with one configuration.

    Attributes:
        example: what was asked.
        prompt_tokens: tokens of the first prompt.
        budget: tokens that stayed of it; 0 is all.
        answers: by turn.
        kv_bytes: of the cache after the last question.
        kv_bytes_peak: the most it ever held.
        num_restarts: questions for which the history was read anew, so not asked of a cut cache.
    """

    example: Example
    prompt_tokens: int
    budget: int
    answers: tuple[ScoredAnswer, ...]
    kv_bytes: int
    kv_bytes_peak: int
    num_restarts: int

    def num_right(self, kinds: Sequence[str] = KINDS) -> int:
        """Right answers to questions of ``kinds``."""
        return sum(answer.is_right for answer in self.answers if answer.kind in kinds)

    def num_asked(self, kinds: Sequence[str] = KINDS) -> int:
        """Questions of ``kinds``."""
        return sum(answer.kind in kinds for answer in self.answers)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: sizes, and each scored answer with its turn."""
        return {
            "id": self.example.id,
            "task": self.example.task,
            "prompt_tokens": self.prompt_tokens,
            "budget": self.budget,
            "kv_bytes": self.kv_bytes,
            "kv_bytes_peak": self.kv_bytes_peak,
            "answers": [
                {"turn": turn, "kind": a.kind, "answer": a.text, "right": a.is_right}
                for turn, a in enumerate(self.answers)
                if a.kind is not None
            ],
        }


@dataclass(frozen=True)
class Outcome:
    """All conversations with one configuration.

    Attributes:
        configuration: of the cache.
        records: by conversation, in the same order for every configuration.
    """

    configuration: Configuration
    records: tuple[Record, ...]

    def num_right(self, kinds: Sequence[str] = KINDS) -> int:
        """Right answers to questions of ``kinds``."""
        return sum(record.num_right(kinds) for record in self.records)

    def num_asked(self, kinds: Sequence[str] = KINDS) -> int:
        """Questions of ``kinds``."""
        return sum(record.num_asked(kinds) for record in self.records)

    def of_full(self, full: Outcome, kinds: Sequence[str] = KINDS) -> float | None:
        """Right answers as a part of what ``full`` gets right; None where that is nothing."""
        right = full.num_right(kinds)
        return self.num_right(kinds) / right if right else None

    @property
    def mean_kv_bytes(self) -> float:
        """Of a conversation's cache after its last question."""
        return fmean(record.kv_bytes for record in self.records)

    @property
    def peak_kv_bytes(self) -> int:
        """The most any conversation's cache ever held."""
        return max(record.kv_bytes_peak for record in self.records)

    @property
    def mean_budget_share(self) -> float:
        """What rounding left of the part to keep, on average; 1 is all."""
        return fmean((r.budget or r.prompt_tokens) / r.prompt_tokens for r in self.records)

    @property
    def num_restarts(self) -> int:
        """Questions for which the history was read anew."""
        return sum(record.num_restarts for record in self.records)

    def of_task(self, task: str) -> Outcome:
        """The part of it that belongs to ``task``."""
        return Outcome(self.configuration, tuple(r for r in self.records if r.example.task == task))
