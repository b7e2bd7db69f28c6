"""Made-up results of a suite, with figures that can be checked by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from ov_kvcrush.evaluation.asking.results import Cell, SampleResult, Scored
from ov_kvcrush.evaluation.configurations import Configuration, make_configurations
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from ov_kvcrush.evaluation.suites.sample import UNSCORED, Question, Sample

FULL, RANK, SNAPKV = make_configurations(["rank", "snapkv"], [Fraction(1, 4)], [])

Scores = Mapping[tuple[str, Configuration], Sequence[float]]


def make_sample(
    name: str,
    task: str,
    metrics: Sequence[str] = ("f1",),
    *,
    context: str = "It is said that Ann lives in Oslo.",
    question: str = "Where does Ann live?",
    golds: tuple[str, ...] = ("Oslo", "in Oslo"),
) -> Sample:
    questions = tuple(Question(question, golds, metric, 16) for metric in metrics)
    return Sample(name, task, context, questions)


def make_result(
    sample: Sample,
    scores: Scores,
    *,
    text: str | None = None,
    kept_by_head: tuple[tuple[int, ...], ...] = (),
) -> SampleResult:
    """Answers of ``text``, or of what their score is, after 4,000 tokens; a quarter stays."""
    cells = []
    for (setting, configuration), by_turn in scores.items():
        is_cut = configuration.keep is not None
        answers = tuple(Scored(text or f"scores {score:g}", score) for score in by_turn)
        kept, kv_bytes = (1000.0, 5_000_000) if is_cut else (4000.0, 20_000_000)
        cells.append(
            Cell(
                setting,
                configuration.name,
                1000 if is_cut else 0,
                kept,
                kv_bytes,
                answers,
                kept_by_head if is_cut else (),
            )
        )
    return SampleResult(sample.id, sample.task, 4000, tuple(cells))


def turns_results() -> SuiteResults:
    """Two tasks of three and of two turns; the last one's first turn does not count."""
    samples = [
        make_sample("a", "needles", ("f1", "f1", "f1")),
        make_sample("b", "needles", ("f1", "f1", "f1")),
        make_sample("c", "summary", (UNSCORED, "f1")),
    ]
    known: list[Scores] = [
        {
            ("known", FULL): (1, 1, 1),
            ("known", RANK): (1, 0.5, 0),
            ("known", SNAPKV): (1, 0, 0),
            ("unknown", FULL): (1, 1, 1),
            ("unknown", RANK): (0, 0, 0),
        },
        {
            ("known", FULL): (1, 0, 1),
            ("known", RANK): (1, 0, 1),
            ("known", SNAPKV): (0, 0, 1),
            ("unknown", FULL): (1, 0, 1),
            ("unknown", RANK): (0, 0, 1),
        },
        {
            ("known", FULL): (0, 1),
            ("known", RANK): (0, 1),
            ("known", SNAPKV): (0, 0),
            ("unknown", FULL): (0, 1),
            ("unknown", RANK): (0, 0),
        },
    ]
    results = [make_result(s, scores) for s, scores in zip(samples, known, strict=True)]
    return SuiteResults.of((FULL, RANK, SNAPKV), samples, results)


def single_results(num_samples: int = 2) -> SuiteResults:
    """One question each, all of one task."""
    samples = [make_sample(f"sample {number}", "qa") for number in range(num_samples)]
    scores: Scores = {("known", FULL): (1,), ("known", RANK): (0.5,)}
    return SuiteResults.of((FULL, RANK), samples, [make_result(s, scores) for s in samples])
