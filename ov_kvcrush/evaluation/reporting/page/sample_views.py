"""What is shown of each sample, and of which samples: the worst ones first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ov_kvcrush.evaluation.asking.results import Cell, Scored
from ov_kvcrush.evaluation.reporting.shown_text import short_name, shortened
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults, score_of, scored_turns
from ov_kvcrush.evaluation.suites.sample import Question, Sample

# Characters of what is shown of a text.
_CONTEXT = 900
_QUESTION = 1200
_ANSWER = 600
_GOLD = 300
_MOST_GOLDS = 8
# A score this near to another one, or to 0 or 1, is the same.
_NEAR = 0.005

_RIGHT, _PART, _WRONG = ("right", "✓ right"), ("part", "◐ in part"), ("wrong", "✗ wrong")


@dataclass(frozen=True)
class AnswerView:
    """An answer to a question, with all caches that gave it, as texts to show.

    Attributes:
        caches: names of their configurations, each with the settings in which it gave it; empty
            where these are all that it was asked in.
        text: of the answer, shortened.
        score: × 100; – where the answer does not count.
        kind: right, part or wrong; empty where it does not count.
        mark: the same for people.
        is_below_full: whether it scores less than the full cache's answer.
    """

    caches: tuple[tuple[str, str], ...]
    text: str
    score: str
    kind: str
    mark: str
    is_below_full: bool


@dataclass(frozen=True)
class QuestionView:
    """One question with all answers to it.

    Attributes:
        title: its number and kind.
        text: shortened.
        golds: right answers, shortened.
        answers: each once, the full cache's first.
    """

    title: str
    text: str
    golds: tuple[str, ...]
    answers: tuple[AnswerView, ...]


@dataclass(frozen=True)
class SampleRow:
    """One sample in a line.

    Attributes:
        number: of the sample in its results, from 0.
        id: of the sample.
        task: of the sample.
        num_tokens: of the first prompt.
        full: the full cache's score; None where it has none.
        cut: mean score of all other caches; likewise.
    """

    number: int
    id: str
    task: str
    num_tokens: int
    full: float | None
    cut: float | None

    @property
    def loss(self) -> float:
        """What the cut caches lose of the full one's score, of 1 where there is none."""
        full = 1.0 if self.full is None else self.full
        return full - (full if self.cut is None else self.cut)


@dataclass(frozen=True)
class SampleView:
    """One sample with all that is shown of it.

    Attributes:
        row: its line.
        context: shortened.
        questions: in the order they were asked.
    """

    row: SampleRow
    context: str
    questions: tuple[QuestionView, ...]


def worst_first(results: SuiteResults) -> list[SampleRow]:
    """All samples; those of which the cut caches lose most first, and then the lowest scores."""
    full = results.full
    rows = []
    for number, (sample, result) in enumerate(zip(results.samples, results.results, strict=True)):
        scores = [(cell.configuration, score_of(sample, cell)) for cell in result.cells]
        whole = [s for name, s in scores if full and name == full.name and s is not None]
        others = [s for name, s in scores if not (full and name == full.name) and s is not None]
        rows.append(
            SampleRow(
                number,
                short_name(result.id),
                short_name(result.task),
                result.num_tokens,
                fmean(whole) if whole else None,
                fmean(others) if others else None,
            )
        )
    return sorted(rows, key=lambda row: (-row.loss, 1.0 if row.cut is None else row.cut))


def view_of(results: SuiteResults, row: SampleRow) -> SampleView:
    """All that is shown of the sample of ``row``."""
    sample, result = results.samples[row.number], results.results[row.number]
    full_name = results.full and results.full.name
    full = next((cell for cell in result.cells if cell.configuration == full_name), None)
    return SampleView(
        row,
        shortened(sample.context, _CONTEXT),
        tuple(
            _question_view(sample, turn, question, result.cells, full)
            for turn, question in enumerate(sample.questions)
        ),
    )


def _question_view(
    sample: Sample,
    turn: int,
    question: Question,
    cells: Sequence[Cell],
    full: Cell | None,
) -> QuestionView:
    counts = turn in scored_turns(sample)
    title = f"Question {turn + 1}" if len(sample.questions) > 1 else "Question"
    if question.kind:
        title += f", {short_name(question.kind)}"
    golds = [shortened(gold, _GOLD) for gold in question.answers[:_MOST_GOLDS]]
    if len(question.answers) > _MOST_GOLDS:
        golds.append(f"… and {len(question.answers) - _MOST_GOLDS:,} more")
    whole = full.answers[turn].score if full and turn < len(full.answers) else None
    there = [cell for cell in cells if turn < len(cell.answers)]
    num_settings = Counter(cell.configuration for cell in there)
    # Most caches answer alike: what differs is seen where each answer stands once.
    alike: dict[Scored, dict[str, list[str]]] = {}
    for cell in there:
        settings = alike.setdefault(cell.answers[turn], {}).setdefault(cell.configuration, [])
        settings.append(cell.setting)
    return QuestionView(
        title if counts else f"{title}, not scored",
        shortened(question.text, _QUESTION),
        tuple(golds),
        tuple(
            _answer_view(answer, caches, num_settings, counts, whole)
            for answer, caches in alike.items()
        ),
    )


def _answer_view(
    answer: Scored,
    caches: dict[str, list[str]],
    num_settings: Mapping[str, int],
    counts: bool,
    whole: float | None,
) -> AnswerView:
    kind, mark = _kind(answer.score) if counts else ("", "")
    return AnswerView(
        tuple(
            (
                short_name(name),
                "" if len(settings) == num_settings[name] else ", ".join(settings),
            )
            for name, settings in caches.items()
        ),
        shortened(answer.text, _ANSWER),
        f"{100 * answer.score:.1f}" if counts else "–",
        kind,
        mark,
        counts and whole is not None and answer.score < whole - _NEAR,
    )


def _kind(score: float) -> tuple[str, str]:
    if score > 1 - _NEAR:
        return _RIGHT
    return _WRONG if score < _NEAR else _PART
