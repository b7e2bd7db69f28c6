"""Fidelity for people as tables and for programs as JSON values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.fidelity.results import MEASURES, Results
from ov_kvcrush.evaluation.report import identity
from ov_kvcrush.evaluation.stats import Difference, paired_mean_difference

_CUT = {
    "known": "Question known: cut behind it",
    "unknown": "Question unknown: cut before it",
    "reading": "Reading: cut all the time, and at the end",
}
_CAPTION = (
    "KL: divergence of the next-token distribution from the full cache's, in nats × 1000; agree: "
    "tokens that would have been chosen as well; whole: answers of which all would have been; "
    "gold: change of the right answer's log likelihood, nats a token."
)
_FREE_CAPTION = (
    " free: part of an answer that nobody tells the cache before it first differs from the full "
    "cache's of the same engine, and answers that never do; openvino_genai can be told nothing, so "
    "that alone compares with it."
)


def fidelity_tables(results: Results) -> Iterator[Table]:
    """One table a setting: every cache, the full one first."""
    for setting in results.settings:
        has_free = setting == "known" and any(
            results.mean(setting, c, "free") is not None for c in results.configurations
        )
        table = Table(
            title=f"{_CUT[setting]}; {len(results.prompts)} prompts",
            title_justify="left",
            caption=_CAPTION + (_FREE_CAPTION if has_free else "")
            if setting == results.settings[-1] or has_free
            else None,
            caption_justify="left",
        )
        table.add_column("cache")
        for name in ("KL", "agree", "whole", "gold", *(("free", "whole") if has_free else ())):
            table.add_column(name, justify="right")
        table.add_column("kept", justify="right")
        table.add_column("KV MB", justify="right")
        for configuration in results.measured(setting):
            cells = [
                _shown(name, results.mean(setting, configuration, name))
                for name in ("kl", "agreement", "whole", "gold")
            ]
            if has_free:
                cells += [
                    _shown(name, results.mean(setting, configuration, name))
                    for name in ("free", "free_whole")
                ]
            kept = results.kept_share(setting, configuration)
            size = results.kv_bytes(setting, configuration)
            cells.append("–" if kept is None else f"{kept:.1%}")
            cells.append(f"{size / 1e6:,.2f}" if size else "–")
            table.add_row(configuration.name, *cells)
        yield table


def fidelity_task_tables(results: Results) -> Iterator[Table]:
    """One table a setting: KL × 1000 by task and cache."""
    for setting in results.settings:
        configurations = [c for c in results.measured(setting) if c.keep or c.precision]
        table = Table(title=f"KL × 1000 by task, {setting}", title_justify="left")
        table.add_column("task")
        table.add_column("prompts", justify="right")
        for configuration in configurations:
            table.add_column(configuration.name, justify="right")
        for task in _tasks(results):
            part = results.of_task(task)
            means = [_shown("kl", part.mean(setting, c, "kl")) for c in configurations]
            table.add_row(task, str(len(part.prompts)), *means)
        yield table


def fidelity_difference_table(results: Results, policy: str) -> Table:
    """Differences to ``policy`` at the same budget, with 95 % intervals over prompts."""
    table = Table(
        title=f"Difference to {policy}: KL × 1000, agreement in points [95 % interval]",
        title_justify="left",
    )
    table.add_column("cache")
    for setting in results.settings:
        table.add_column(f"{setting}: KL", justify="right")
        table.add_column("agree", justify="right")
    for ours, theirs in _pairs(results, policy):
        cells = [
            _interval(_difference(results, setting, ours, theirs, measure), scale)
            for setting in results.settings
            for measure, scale in (("kl", 1000.0), ("agreement", 100.0))
        ]
        table.add_row(ours.name, *cells)
    return table


def fidelity_summary(
    results: Results, compare: str | None = None, with_prompts: bool = False
) -> dict[str, Any]:
    """All figures as JSON values; KL in nats, parts from 0 to 1.

    Args:
        results: of the prompts that were finished.
        compare: policy to which differences are given.
        with_prompts: every prompt's answer and scores too.
    """
    body: dict[str, Any] = {
        "num_prompts": len(results.prompts),
        "prompt_tokens": sum(prompt.prompt_tokens for prompt in results.prompts),
        "seconds": round(sum(prompt.seconds for prompt in results.prompts), 1),
        "configurations": [
            {
                **identity(configuration),
                **{
                    setting: _figures(results, setting, configuration)
                    | {"by_task": _by_task(results, setting, configuration)}
                    for setting in results.settings
                    if configuration in results.measured(setting)
                },
            }
            for configuration in results.configurations
        ],
    }
    if compare is not None:
        body["differences"] = [
            {
                **identity(ours),
                "to": compare,
                **{
                    setting: {
                        measure: _as_dict(_difference(results, setting, ours, theirs, measure))
                        for measure in MEASURES
                    }
                    for setting in results.settings
                },
            }
            for ours, theirs in _pairs(results, compare)
        ]
    if with_prompts:
        body["prompts"] = [prompt.to_dict() for prompt in results.prompts]
    return body


def _figures(results: Results, setting: str, configuration: Configuration) -> dict[str, Any]:
    figures: dict[str, Any] = {
        measure: results.mean(setting, configuration, measure) for measure in MEASURES
    }
    figures["kept"] = results.kept_share(setting, configuration)
    figures["kv_bytes"] = results.kv_bytes(setting, configuration)
    return figures


def _by_task(results: Results, setting: str, configuration: Configuration) -> dict[str, Any]:
    parts = {task: results.of_task(task) for task in _tasks(results)}
    return {
        task: {name: part.mean(setting, configuration, name) for name in ("kl", "agreement")}
        for task, part in parts.items()
    }


def _tasks(results: Results) -> list[str]:
    return sorted({prompt.task for prompt in results.prompts})


def _pairs(results: Results, policy: str) -> Iterator[tuple[Configuration, Configuration]]:
    """Each configuration with that of ``policy`` at the same precision and budget."""
    others = {(c.keep, c.precision): c for c in results.configurations if c.policy == policy}
    for ours in results.configurations:
        theirs = others.get((ours.keep, ours.precision)) or others.get((None, ours.precision))
        if theirs is not None and theirs is not ours:
            yield ours, theirs


def _difference(
    results: Results, setting: str, ours: Configuration, theirs: Configuration, measure: str
) -> Difference | None:
    return paired_mean_difference(
        results.values(setting, ours, measure), results.values(setting, theirs, measure)
    )


def _as_dict(difference: Difference | None) -> dict[str, float] | None:
    return None if difference is None else difference.to_dict()


def _shown(measure: str, value: float | None) -> str:
    if value is None:
        return "–"
    if measure == "kl":
        return f"{1000 * value:,.1f}"
    if measure == "gold":
        return f"{value:+.3f}"
    return f"{value:.1%}"


def _interval(difference: Difference | None, scale: float) -> str:
    if difference is None:
        return "–"
    points, low, high = (
        scale * value for value in (difference.points, difference.low, difference.high)
    )
    return f"{points:+.1f} [{low:+.1f}, {high:+.1f}]"
