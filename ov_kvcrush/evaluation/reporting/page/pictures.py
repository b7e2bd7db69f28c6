"""Pictures of scores: over the cache's bytes, and by task."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from markupsafe import Markup

from ov_kvcrush.evaluation.reporting.page.series import Series, legend_columns, series_of
from ov_kvcrush.evaluation.reporting.page.svg import INK, PAPER, RULE, log_ticks, picture, to_svg
from ov_kvcrush.evaluation.reporting.shown_text import one_line
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from ov_kvcrush.evaluation.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[float, Estimate]]
"""Sizes in MB and scores, the smallest size first."""

MOST_TASKS = 40
"""In a picture of tasks."""

# From so many times the smallest size on, sizes are shown on a log scale.
_WIDE = 3.0
_BAR = 0.12
_LONGEST_TASK = 22


def score_pictures(results: SuiteResults, turns: str, name: str) -> dict[str, Markup]:
    """Score over KV bytes with 95 % intervals, a line a policy, by setting.

    All have the same scale of scores; a setting in which no size is known has none.

    Args:
        results: of all samples.
        turns: of ``results.turns``.
        name: of the pictures, another one for each call of a page.
    """
    panels = {
        setting: [
            (series, points)
            for series in series_of(results)
            if (points := _points(results, setting, series, turns))
        ]
        for setting in results.settings
    }
    ends = [
        100 * end
        for lines in panels.values()
        for _, points in lines
        for _, estimate in points
        for end in (estimate.low, estimate.high)
    ]
    return {
        setting: _score_picture(results, setting, turns, lines, (min(ends), max(ends)), name)
        for setting, lines in panels.items()
        if lines
    }


def _score_picture(
    results: SuiteResults,
    setting: str,
    turns: str,
    lines: list[tuple[Series, Points]],
    ends: tuple[float, float],
    name: str,
) -> Markup:
    columns = legend_columns(series for series, _ in lines)
    num_rows = math.ceil(len(lines) / columns)
    with picture(f"{name}-{setting}", 3.3 + 0.18 * num_rows) as figure:
        axes = figure.subplots()
        full = results.full and results.estimate(setting, results.full, turns)
        if full:
            axes.axhspan(100 * full.low, 100 * full.high, color=RULE, alpha=0.4, linewidth=0)
            axes.axhline(100 * full.mean, color=INK, linestyle="--", linewidth=1)
        for series, points in lines:
            _draw_line(axes, series, points)
        _size_axis(axes, [size for _, points in lines for size, _ in points])
        room = max(1.0, 0.04 * (ends[1] - ends[0]))
        axes.set_ylim(ends[0] - room, ends[1] + room)
        axes.set_ylabel("score × 100")
        axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=columns, handlelength=3.5)
        return to_svg(figure, "Score over the KV cache's size, a line a policy")


def keeps_of(results: SuiteResults, setting: str) -> list[Fraction]:
    """Budgets that were measured in ``setting``, the largest first."""
    return sorted({c.keep for c in results.measured(setting) if c.keep is not None}, reverse=True)


def task_picture(
    results: SuiteResults, setting: str, keep: Fraction | None, name: str
) -> Markup | None:
    """Bars of scores by task, a colour a policy; None where nothing was measured.

    Args:
        results: of all samples.
        setting: when the cache was cut.
        keep: the budget that is shown beside the full caches.
        name: of the picture, another one for each of a page.
    """
    measured = set(results.measured(setting))
    bars = [
        (series, configuration)
        for series in series_of(results)
        for configuration in series.configurations
        if configuration in measured and configuration.keep in (None, keep)
    ]
    if not bars:
        return None
    tasks = results.tasks[:MOST_TASKS]
    columns = legend_columns(series for series, _ in bars)
    num_rows = math.ceil(len(bars) / columns)
    height = 0.7 + 0.18 * num_rows + len(tasks) * (len(bars) + 1) * _BAR
    with picture(name, max(2.0, height)) as figure:
        axes = figure.subplots()
        parts = [results.of_task(task) for task in tasks]
        for number, (series, configuration) in enumerate(bars):
            means = [part.mean(setting, configuration) for part in parts]
            places = [task * (len(bars) + 1) + number for task in range(len(tasks))]
            axes.barh(
                places,
                [100 * (mean or 0.0) for mean in means],
                height=0.8,
                color=series.colour,
                # Which a hatch has too.
                edgecolor=PAPER,
                hatch=series.hatch,
                linewidth=0.0,
                label=series.label,
            )
        middle = (len(bars) - 1) / 2
        axes.set_yticks(
            [task * (len(bars) + 1) + middle for task in range(len(tasks))],
            [_short(task) for task in tasks],
        )
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(tasks) * (len(bars) + 1) - 1, -1)
        axes.set_xlim(0, 103)
        axes.set_xlabel("score × 100")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=columns)
        return to_svg(figure, "Bars of scores by task, a colour a policy")


def _points(results: SuiteResults, setting: str, series: Series, turns: str) -> Points:
    points = []
    for configuration in series.configurations:
        size = results.kv_bytes(setting, configuration)
        estimate = results.estimate(setting, configuration, turns)
        if size and estimate:
            points.append((size / 1e6, estimate))
    return sorted(points, key=lambda point: point[0])


def _draw_line(axes: Axes, series: Series, points: Points) -> None:
    means = [100 * estimate.mean for _, estimate in points]
    low = [100 * max(0.0, estimate.mean - estimate.low) for _, estimate in points]
    high = [100 * max(0.0, estimate.high - estimate.mean) for _, estimate in points]
    axes.errorbar(
        [size for size, _ in points],
        means,
        yerr=[low, high],
        color=series.colour,
        linestyle=series.line,
        linewidth=1.5,
        elinewidth=0.8,
        capsize=2,
        marker=series.mark,
        markersize=5,
        label=series.label,
    )


def _size_axis(axes: Axes, sizes: list[float]) -> None:
    if max(sizes) > _WIDE * min(sizes):
        axes.set_xscale("log")
        axes.minorticks_off()
        ticks = log_ticks(min(sizes), max(sizes))
        axes.set_xticks(ticks, [f"{size:,.3g}" for size in ticks])
    else:
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.set_xlabel("KV cache, mean [MB]")


def _short(task: str) -> str:
    task = one_line(task)
    return task if len(task) <= _LONGEST_TASK else f"{task[: _LONGEST_TASK - 1]}…"
