"""Scores of a suite for people as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from rich.markup import escape
from rich.table import Table

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.reporting.differences import INSIDE, comparisons
from ov_kvcrush.evaluation.reporting.shown_text import one_line, short_name
from ov_kvcrush.evaluation.reporting.suite_results import SETTINGS, SuiteResults
from ov_kvcrush.evaluation.stats import Difference

_CAPTION = (
    "Scores × 100, mean over samples; of full: in percent of the full cache's score; kept: tokens "
    "that a KV head holds after all cuts; KV MB: of the cache then."
)
_GENAI_NOTE = (
    " genai: openvino_genai keeps no cache between turns; for every question it reads the whole "
    "conversation again, uncut, and knows the question before it evicts."
)
MEAN_OF_TASKS = "mean of tasks"
# Of fewer samples an interval is not to be trusted (it is drawn from the samples themselves).
_FEW = 10


def score_tables(results: SuiteResults) -> Iterator[Table]:
    """One table a setting: every cache, the full one first."""
    for setting in results.settings:
        table = Table(
            title=f"{setting_title(setting)}; {counted(len(results.samples), 'sample')}",
            title_justify="left",
            caption=_CAPTION + genai_note(results) if setting == results.settings[-1] else None,
            caption_justify="left",
        )
        table.add_column("cache")
        for name in score_columns(results):
            table.add_column(name, justify="right")
        for configuration in results.measured(setting):
            cells = score_cells(results, setting, configuration)
            table.add_row(_name(configuration), *cells)
        yield table


def task_tables(results: SuiteResults) -> Iterator[Table]:
    """One table a setting: scores × 100 of all turns by task and cache."""
    for setting in results.settings:
        table = Table(title=f"Score × 100 by task, {setting}", title_justify="left")
        table.add_column("task")
        table.add_column("samples", justify="right")
        for configuration in results.measured(setting):
            table.add_column(_name(configuration), justify="right")
        for task, cells in task_rows(results, setting):
            if task is None:
                table.add_section()
            name = MEAN_OF_TASKS if task is None else short_name(task)
            table.add_row(escape(name), *cells)
        yield table


def difference_table(results: SuiteResults, compare: str) -> Table:
    """Differences to ``compare`` in points of score × 100, with 95 % intervals over samples.

    Raises:
        ConfigError: as :func:`comparisons`.
    """
    found = comparisons(results, compare)
    table = Table(
        title=difference_title(compare),
        title_justify="left",
        caption=few_note(len(results.samples)) or None,
        caption_justify="left",
    )
    table.add_column("cache")
    table.add_column("to")
    table.add_column("setting")
    for name in turn_columns(results):
        table.add_column(name, justify="right")
    for comparison in found:
        table.add_row(
            _name(comparison.ours),
            _name(comparison.theirs),
            comparison.setting,
            *(_difference(comparison.by_turns[turns]) for turns in results.turns),
        )
    return table


def setting_title(setting: str) -> str:
    """What ``setting`` is, for people."""
    return SETTINGS.get(setting, setting)


def difference_title(compare: str) -> str:
    """Above differences."""
    return f"Difference to {one_line(compare)} in points of score × 100 [95 % interval]"


def few_note(num_samples: int) -> str:
    """What is to be said of intervals over ``num_samples``; empty where nothing is."""
    if num_samples >= _FEW:
        return ""
    return f"Intervals over {counted(num_samples, 'sample')} say little; ask at least {_FEW}."


def counted(number: int, noun: str) -> str:
    """``number`` and ``noun``, in the plural where it is not 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def score_columns(results: SuiteResults) -> list[str]:
    """Names of what :func:`score_cells` gives."""
    names = [name for turns in turn_columns(results) for name in (turns, "of full")]
    return [*names, "kept", "KV MB"]


def genai_note(results: SuiteResults) -> str:
    """What is to be said of openvino_genai's later turns; empty where there are none."""
    engines = {configuration.engine for configuration in results.configurations}
    return _GENAI_NOTE if "genai" in engines and len(results.turns) > 1 else ""


def turn_columns(results: SuiteResults) -> list[str]:
    """Names of ``results.turns``: where all are one, that is the score."""
    return list(results.turns) if len(results.turns) > 1 else ["score"]


def score_cells(results: SuiteResults, setting: str, configuration: Configuration) -> list[str]:
    """A configuration's figures for people, by :func:`score_columns`."""
    cells = []
    for turns in results.turns:
        share = results.of_full(setting, configuration, turns)
        cells.append(shown_score(results.mean(setting, configuration, turns)))
        cells.append("–" if share is None else f"{share:.1%}")
    kept = results.kept(setting, configuration)
    size = results.kv_bytes(setting, configuration)
    cells.append("–" if kept is None else f"{kept:,.0f}")
    cells.append("–" if size is None else f"{size / 1e6:,.2f}")
    return cells


def task_rows(results: SuiteResults, setting: str) -> Iterator[tuple[str | None, list[str]]]:
    """Task; its samples and each configuration's score. Last, without a name, the tasks' mean."""
    configurations = results.measured(setting)
    parts = {task: results.of_task(task) for task in results.tasks}
    by_task = {
        task: [part.mean(setting, configuration) for configuration in configurations]
        for task, part in parts.items()
    }
    for task, scores in by_task.items():
        yield task, [str(len(parts[task].samples)), *map(shown_score, scores)]
    if len(by_task) > 1:
        means = map(_shown_mean, zip(*by_task.values(), strict=True))
        yield None, [str(len(results.samples)), *means]


def shown_score(score: float | None) -> str:
    """``score`` × 100."""
    return "–" if score is None else f"{100 * score:.1f}"


def shown_difference(difference: Difference | None) -> str:
    """Points with their interval."""
    if difference is None:
        return "–"
    return f"{difference.points:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"


def _shown_mean(scores: Sequence[float | None]) -> str:
    there = [score for score in scores if score is not None]
    # Not of some tasks alone: it would stand beside means of all of them.
    return shown_score(fmean(there) if len(there) == len(scores) else None)


def _difference(difference: Difference | None) -> str:
    shown = shown_difference(difference)
    inside = difference is not None and difference.is_inside_interval
    return f"{shown}\n{INSIDE}" if inside else shown


def _name(configuration: Configuration) -> str:
    return escape(one_line(configuration.name))
