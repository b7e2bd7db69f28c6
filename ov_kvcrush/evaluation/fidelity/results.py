"""What came out: how far one cut cache is from the full one, and many of them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from ov_kvcrush.evaluation.configurations import Configuration

SETTINGS = ("known", "unknown", "reading")
"""When the cache is cut: behind the question, before it, or all the time while the text is read."""


@dataclass(frozen=True)
class Score:
    """One prompt with one configuration in one setting.

    Attributes:
        budget: tokens that may stay; 0 is all.
        kept: tokens that a KV head held on average when all cuts had been made.
        kv_bytes: of the cache then.
        kl: by token of the answer, divergence in nats from the full cache's distribution; only of
            tokens whose distribution depends on a cut.
        alike: by token, whether it would have been chosen as well.
        gold: mean change of the right answer's log likelihood, in nats a token; None where there
            is none.
        free_tokens: of the answer that the cut cache writes when nobody tells it what was written,
            those before it first differs from the full cache's; None where that was not tried.
        free_alike: whether that is the whole answer; likewise.
    """

    budget: int
    kept: float
    kv_bytes: int
    kl: tuple[float, ...] = ()
    alike: tuple[bool, ...] = ()
    gold: float | None = None
    free_tokens: float | None = None
    free_alike: bool | None = None

    @property
    def mean_kl(self) -> float | None:
        """Of all tokens that count; None where none does."""
        return fmean(self.kl) if self.kl else None

    @property
    def agreement(self) -> float | None:
        """Part of the tokens that would have been chosen as well."""
        return fmean(self.alike) if self.alike else None

    @property
    def whole(self) -> float | None:
        """1 where all of them would have been, else 0."""
        return float(all(self.alike)) if self.alike else None

    @property
    def free_whole(self) -> float | None:
        """1 where the answer that nobody told it is the full cache's, else 0."""
        return None if self.free_alike is None else float(self.free_alike)


@dataclass(frozen=True)
class PromptScores:
    """One prompt with every configuration.

    Attributes:
        id: of the prompt.
        task: of the prompt.
        prompt_tokens: of the prompt.
        answer: what the full cache wrote.
        seconds: it took.
        scores: by setting and configuration; what cannot be measured there is missing.
    """

    id: str
    task: str
    prompt_tokens: int
    answer: str
    seconds: float
    scores: dict[tuple[str, Configuration], Score]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; a list of scores, each with its setting and the name of its cache."""
        return {
            "id": self.id,
            "task": self.task,
            "prompt_tokens": self.prompt_tokens,
            "answer": self.answer,
            "seconds": round(self.seconds, 2),
            "scores": [
                {"setting": setting, "name": configuration.name, **asdict(score)}
                for (setting, configuration), score in self.scores.items()
            ],
        }


MEASURES: dict[str, Callable[[Score], float | None]] = {
    "kl": lambda score: score.mean_kl,
    "agreement": lambda score: score.agreement,
    "whole": lambda score: score.whole,
    "gold": lambda score: score.gold,
    "free": lambda score: score.free_tokens,
    "free_whole": lambda score: score.free_whole,
}
"""What is measured of one prompt; a prompt counts as much as any other."""


@dataclass(frozen=True)
class Results:
    """All prompts that were finished.

    Attributes:
        settings: that were measured.
        configurations: likewise.
        prompts: in the order they were read.
    """

    settings: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    prompts: tuple[PromptScores, ...]

    def scores(self, setting: str, configuration: Configuration) -> list[Score | None]:
        """By prompt; None where it was not measured."""
        return [prompt.scores.get((setting, configuration)) for prompt in self.prompts]

    def values(
        self, setting: str, configuration: Configuration, measure: str
    ) -> list[float | None]:
        """One of ``MEASURES`` by prompt; None where it is not there."""
        of = MEASURES[measure]
        return [None if s is None else of(s) for s in self.scores(setting, configuration)]

    def mean(self, setting: str, configuration: Configuration, measure: str) -> float | None:
        """One of ``MEASURES``, the mean over prompts; None where none has it."""
        return mean_of(self.values(setting, configuration, measure))

    def kept_share(self, setting: str, configuration: Configuration) -> float | None:
        """Part of the prompts' tokens that cuts left, on average."""
        return mean_of(
            [
                None if score is None else score.kept / prompt.prompt_tokens
                for prompt, score in zip(
                    self.prompts, self.scores(setting, configuration), strict=True
                )
            ]
        )

    def kv_bytes(self, setting: str, configuration: Configuration) -> float | None:
        """Of a cache when all cuts had been made, on average."""
        scores = self.scores(setting, configuration)
        return mean_of([None if score is None else score.kv_bytes for score in scores])

    def measured(self, setting: str) -> list[Configuration]:
        """Those that were measured in ``setting``."""
        return [c for c in self.configurations if any(self.scores(setting, c))]

    def of_task(self, task: str) -> Results:
        """The part of it that belongs to ``task``."""
        prompts = tuple(prompt for prompt in self.prompts if prompt.task == task)
        return Results(self.settings, self.configurations, prompts)


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of what is there; None where nothing is."""
    there = [value for value in values if value is not None]
    return fmean(there) if there else None
