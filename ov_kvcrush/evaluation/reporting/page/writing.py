"""The report put together and written: one file, of a size that a browser opens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.reporting import tables
from ov_kvcrush.evaluation.reporting.differences import INSIDE, comparisons
from ov_kvcrush.evaluation.reporting.page.kept_map import kept_maps, kept_picture, limits_of
from ov_kvcrush.evaluation.reporting.page.pictures import (
    MOST_TASKS,
    keeps_of,
    score_pictures,
    task_picture,
)
from ov_kvcrush.evaluation.reporting.page.sample_views import SampleRow, view_of, worst_first
from ov_kvcrush.evaluation.reporting.shown_text import one_line, printable, short_name
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from ov_kvcrush.files import write_text

# A browser opens so much at once, on a telephone too. Samples that are not in full are rows, and
# one that is not a row either is in the journal.
_MOST_BYTES_OF_SAMPLES = 6_000_000
_MOST_ROWS = 5_000

_FORMATS = (".html", ".htm")


@dataclass(frozen=True)
class RunFacts:
    """What was run, for people.

    Attributes:
        title: above all.
        command: as it was typed.
        model: its name or folder.
        machine: processor and memory.
        versions: of packages, by name.
        date: when it was finished.
        more: anything else, by name.
    """

    title: str
    command: str
    model: str
    machine: str
    versions: Mapping[str, str]
    date: str
    more: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, in the order they are shown."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return [
            ("Command", self.command),
            ("Model", self.model),
            ("Machine", self.machine),
            ("Versions", versions),
            ("Date", self.date),
            *self.more.items(),
        ]


def require_report(path: Path) -> None:
    """Refuse before anything runs a report that could not be written in the end.

    Raises:
        ConfigError: matplotlib is missing, or ``path`` does not end like a page.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "the report's pictures need matplotlib, which is not installed",
            'Install it: pip install "ov-kvcrush[eval]"',
        )
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"{path} is not the name of a page", f"Name it {' or '.join(_FORMATS)}.")


def write_report(
    path: Path, results: SuiteResults, facts: RunFacts, compare: str | None = None
) -> None:
    """Write a page that needs no other file, and is written whole or not at all.

    Its size is bounded however many samples there are: those of which cut caches lose most are
    shown in full, up to 6 MB of them, and the others as rows, up to 5,000. Pictures grow with
    settings, configurations and (up to 40) tasks alone. Needs matplotlib, the ``eval`` extra.

    Args:
        path: of the HTML file.
        results: of all samples that were finished.
        facts: what was run.
        compare: policy or configuration to which differences are given.

    Raises:
        ConfigError: as :func:`comparisons`.
        OVKVCrushError: it cannot be written.
    """
    write_text(path, report_html(results, facts, compare))


def report_html(results: SuiteResults, facts: RunFacts, compare: str | None = None) -> str:
    """What :func:`write_report` writes."""
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        # What data says passes here, wherever a template shows it.
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sample_template = environment.get_template("sample.html.jinja")
    rows = worst_first(results)
    sections = list(
        _within(
            rows,
            lambda row: sample_template.render(sample=view_of(results, row)),
        )
    )
    others = rows[len(sections) :]
    return environment.get_template("report.html.jinja").render(
        style=Markup(_source("report.css")),
        title=one_line(facts.title),
        facts=facts.rows(),
        num_samples=tables.counted(len(results.samples), "sample"),
        num_questions=tables.counted(results.num_questions, "question"),
        genai_note=tables.genai_note(results),
        score_columns=tables.score_columns(results),
        settings=[_setting(results, setting) for setting in results.settings],
        score_pictures=_score_pictures(results),
        maps=_maps(results),
        differences=_differences(results, compare),
        sections=[Markup(section) for section in sections],
        rows=others[:_MOST_ROWS],
        num_left_out=max(0, len(others) - _MOST_ROWS),
        most_tasks=MOST_TASKS if len(results.tasks) > MOST_TASKS else None,
        shown_score=tables.shown_score,
    )


def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _within(rows: list[SampleRow], render: Callable[[SampleRow], str]) -> Iterator[str]:
    left = _MOST_BYTES_OF_SAMPLES
    for row in rows:
        section = render(row)
        left -= len(section.encode())
        if left < 0:
            return
        yield section


def _setting(results: SuiteResults, setting: str) -> dict[str, Any]:
    measured = results.measured(setting)
    place = results.settings.index(setting)
    return {
        "title": tables.setting_title(setting),
        "rows": [(c.name, tables.score_cells(results, setting, c)) for c in measured],
        "tasks": [
            (
                "full cache alone" if keep is None else f"kept {keep}, and the full cache",
                task_picture(results, setting, keep, f"task-{place}-{number}"),
            )
            for number, keep in enumerate(keeps_of(results, setting) or [None])
        ],
        "task_columns": [c.name for c in measured],
        "task_rows": [
            (tables.MEAN_OF_TASKS if task is None else short_name(task), task is None, cells)
            for task, cells in tables.task_rows(results, setting)
        ],
    }


def _score_pictures(results: SuiteResults) -> list[tuple[str, Markup]]:
    several = len(results.turns) > 1
    return [
        (f"{tables.setting_title(setting)}{f'; {turns} turns' if several else ''}", picture)
        for turns in (("all", "later") if several else ("all",))
        for setting, picture in score_pictures(results, turns, f"score-{turns}").items()
    ]


def _maps(results: SuiteResults) -> list[tuple[str, Markup]]:
    maps = list(kept_maps(results))
    if not maps:
        return []
    limits = limits_of(maps)
    return [
        (
            f"{configuration.name}, {setting}" if len(results.settings) > 1 else configuration.name,
            kept_picture(grid, limits, f"kept-{number}"),
        )
        for number, (setting, configuration, grid) in enumerate(maps)
    ]


def _differences(results: SuiteResults, compare: str | None) -> dict[str, Any] | None:
    if compare is None:
        return None
    return {
        "title": tables.difference_title(compare),
        "note": tables.few_note(len(results.samples)),
        "columns": tables.turn_columns(results),
        "rows": [
            (
                found.ours.name,
                found.theirs.name,
                found.setting,
                [
                    (
                        tables.shown_difference(difference),
                        INSIDE if difference and difference.is_inside_interval else "",
                    )
                    for difference in (found.by_turns[turns] for turns in results.turns)
                ],
            )
            for found in comparisons(results, compare)
        ],
    }
