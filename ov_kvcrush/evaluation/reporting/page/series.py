"""Which colour, line and mark a policy has, the same in every picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.policies import FULL
from ov_kvcrush.evaluation.reporting.page.svg import INK, SERIES
from ov_kvcrush.evaluation.reporting.shown_text import one_line
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults

_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")
_HATCHES = ("", "////", "xxxx", "||||", "\\\\\\\\")
_LONGEST = 26
# Characters that half of a picture's width has room for.
_HALF = 20


@dataclass(frozen=True)
class Series:
    """A policy with a precision, at all of its budgets.

    Attributes:
        label: for people; short.
        configurations: in the order they were asked for.
        colour: one of the page's.
        mark: of a point.
        line: between points.
        hatch: of a bar.
    """

    label: str
    configurations: tuple[Configuration, ...]
    colour: str
    mark: str
    line: str
    hatch: str


def legend_columns(series: Iterable[Series]) -> int:
    """As many as a narrow picture has room for."""
    return 2 if all(len(one.label) <= _HALF for one in series) else 1


def series_of(results: SuiteResults) -> list[Series]:
    """All policies, in the order they were asked for; what they are compared with is ink."""
    found: dict[tuple[str, ...], list[Configuration]] = {}
    for configuration in results.configurations:
        found.setdefault(_key(configuration), []).append(configuration)
    series, number = [], 0
    for key, configurations in found.items():
        if results.full in configurations:
            series.append(Series(_label(key), tuple(configurations), INK, "o", "--", ""))
            continue
        series.append(
            Series(
                _label(key),
                tuple(configurations),
                SERIES[number % len(SERIES)],
                _MARKS[number % len(_MARKS)],
                _LINES[number % len(_LINES)],
                _HATCHES[number % len(_HATCHES)],
            )
        )
        number += 1
    return series


def _key(configuration: Configuration) -> tuple[str, ...]:
    return (configuration.policy, configuration.engine, *(configuration.precision or ()))


def _label(key: tuple[str, ...]) -> str:
    policy, engine, *precision = key
    name = policy
    if policy == FULL:
        name = "full cache" if engine == "paged" else f"full cache ({engine})"
    name = one_line(name)
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 9]}…{name[-8:]}"
    return " ".join([name, "/".join(precision)]).strip()
