"""What came out of a suite: scores by setting, configuration, turn and task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from ov_kvcrush.evaluation.asking.results import Cell, SampleResult
from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.stats import Estimate, bootstrap_mean
from ov_kvcrush.evaluation.suites.sample import Sample

SETTINGS = {
    "known": "Question known: cut behind the first question",
    "unknown": "Question unknown: cut before the first question",
    "reading": "Reading: cut all the time while the text is read, and behind the first question",
}
"""When a cache is cut, for people."""


@dataclass(frozen=True)
class SuiteResults:
    """All samples that were finished; each counts as much as any other.

    A sample's score is the mean of its answers' scores, 0 to 1. Turns are ``first``, ``later`` (all
    but the first) or ``all``.

    Attributes:
        configurations: that were asked for, the full cache first.
        samples: what was asked.
        results: by sample, in the same order.
    """

    configurations: tuple[Configuration, ...]
    samples: tuple[Sample, ...]
    results: tuple[SampleResult, ...]

    @classmethod
    def of(
        cls,
        configurations: Iterable[Configuration],
        samples: Iterable[Sample],
        results: Iterable[SampleResult],
    ) -> SuiteResults:
        """Pair ``results`` with their samples; samples that were not finished are left out."""
        by_id = {sample.id: sample for sample in samples}
        finished = tuple(results)
        return cls(tuple(configurations), tuple(by_id[r.id] for r in finished), finished)

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """That were measured, in the order of ``SETTINGS``."""
        there = dict.fromkeys(cell.setting for result in self.results for cell in result.cells)
        known = [setting for setting in SETTINGS if setting in there]
        return (*known, *(setting for setting in there if setting not in SETTINGS))

    @property
    def full(self) -> Configuration | None:
        """The full cache that all are compared with; None where none was measured."""
        return next((c for c in self.configurations if c.keep is None), None)

    @property
    def turns(self) -> tuple[str, ...]:
        """Turns that are told apart: all alone where samples have one question."""
        several = any(len(scored_turns(sample)) > 1 for sample in self.samples)
        return ("first", "later", "all") if several else ("all",)

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Names, sorted."""
        return tuple(sorted({result.task for result in self.results}))

    @property
    def num_questions(self) -> int:
        """Of all samples; what is not scored is left out."""
        return sum(len(scored_turns(sample)) for sample in self.samples)

    def of_task(self, task: str) -> SuiteResults:
        """The part of it that belongs to ``task``."""
        there = [number for number, result in enumerate(self.results) if result.task == task]
        return SuiteResults(
            self.configurations,
            tuple(self.samples[number] for number in there),
            tuple(self.results[number] for number in there),
        )

    def measured(self, setting: str) -> list[Configuration]:
        """Configurations that were measured in ``setting``."""
        return [c for c in self.configurations if any(self.cells(setting, c))]

    def cells(self, setting: str, configuration: Configuration) -> list[Cell | None]:
        """By sample; None where it was not measured."""
        return [cells.get((setting, configuration.name)) for cells in self._by_place]

    def scores(
        self, setting: str, configuration: Configuration, turns: str = "all"
    ) -> list[float | None]:
        """By sample; None where it was not measured or has no such turn."""
        return [
            None if cell is None else score_of(sample, cell, turns)
            for sample, cell in zip(self.samples, self.cells(setting, configuration), strict=True)
        ]

    def estimate(
        self, setting: str, configuration: Configuration, turns: str = "all"
    ) -> Estimate | None:
        """The mean score over samples with its 95 % interval; None where there is none."""
        return bootstrap_mean(_there(self.scores(setting, configuration, turns)))

    def num_scored(self, setting: str, configuration: Configuration, turns: str = "all") -> int:
        """Samples that its mean score is of."""
        return len(_there(self.scores(setting, configuration, turns)))

    def mean(self, setting: str, configuration: Configuration, turns: str = "all") -> float | None:
        """The mean score over samples; None where there is none."""
        return _mean(self.scores(setting, configuration, turns))

    def of_full(
        self, setting: str, configuration: Configuration, turns: str = "all"
    ) -> float | None:
        """The mean score as a part of the full cache's over the same samples.

        None where there are no such samples, or the full cache's score is 0.
        """
        if self.full is None:
            return None
        pairs = zip(
            self.scores(setting, configuration, turns),
            self.scores(setting, self.full, turns),
            strict=True,
        )
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        whole = sum(theirs for _, theirs in both)
        return sum(ours for ours, _ in both) / whole if whole else None

    def kept(self, setting: str, configuration: Configuration) -> float | None:
        """Tokens that a KV head held when all cuts had been made, mean over samples."""
        there = [cell for cell in self.cells(setting, configuration) if cell is not None]
        return _mean([cell.kept for cell in there])

    def kv_bytes(self, setting: str, configuration: Configuration) -> float | None:
        """Of a cache when all cuts had been made, mean over samples; None where it is not known."""
        there = [cell for cell in self.cells(setting, configuration) if cell is not None]
        return _mean([cell.kv_bytes or None for cell in there])

    @cached_property
    def _by_place(self) -> list[dict[tuple[str, str], Cell]]:
        return [
            {(cell.setting, cell.configuration): cell for cell in result.cells}
            for result in self.results
        ]


def scored_turns(sample: Sample) -> list[int]:
    """Numbers of the questions whose answers count."""
    return [turn for turn, q in enumerate(sample.questions) if q.is_scored]


def score_of(sample: Sample, cell: Cell, turns: str = "all") -> float | None:
    """The mean over the answers that count; None where there are none."""
    scores = [
        cell.answers[turn].score
        for turn in scored_turns(sample)
        if turn < len(cell.answers) and (turns == "all" or (turn == 0) == (turns == "first"))
    ]
    return fmean(scores) if scores else None


def _there(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float | None]) -> float | None:
    there = _there(values)
    return fmean(there) if there else None
