"""Scores of a suite for programs: JSON values and CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.report import identity
from ov_kvcrush.evaluation.reporting.differences import Comparison, comparisons
from ov_kvcrush.evaluation.reporting.shown_text import printable
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from ov_kvcrush.files import write_text

_COLUMNS = (
    *("task", "setting", "name", "policy", "engine", "keep", "precision"),
    *("score", "low", "high", "n", "of_full", "kept", "kv_bytes"),
)


def summary(
    results: SuiteResults, compare: str | None = None, with_samples: bool = False
) -> dict[str, Any]:
    """All figures as JSON values: scores and parts from 0 to 1, differences in points (× 100).

    Args:
        results: of the samples that were finished.
        compare: policy or configuration to which differences are given.
        with_samples: every sample's answers and sizes too.

    Raises:
        ConfigError: as :func:`comparisons`.
    """
    by_task = {task: results.of_task(task) for task in results.tasks}
    body: dict[str, Any] = {
        "num_samples": len(results.samples),
        "num_questions": results.num_questions,
        "configurations": [
            {
                **identity(configuration),
                **{
                    setting: {
                        turns: _figures(results, setting, configuration, turns)
                        for turns in results.turns
                    }
                    | _sizes(results, setting, configuration)
                    | {
                        "by_task": {
                            task: _figures(part, setting, configuration)
                            for task, part in by_task.items()
                        }
                    }
                    for setting in results.settings
                    if configuration in results.measured(setting)
                },
            }
            for configuration in results.configurations
        ],
    }
    if compare is not None:
        body["differences"] = [_as_dict(found) for found in comparisons(results, compare)]
    if with_samples:
        body["samples"] = [result.to_dict() for result in results.results]
    return body


def csv_rows(results: SuiteResults) -> list[dict[str, Any]]:
    """A row for each task, setting and configuration; None where there is nothing to say.

    Scores and their intervals are from 0 to 1, over ``n`` samples; ``kept`` is in tokens.
    """
    return [
        {
            "task": printable(task),
            "setting": setting,
            **identity(configuration),
            **_figures(part, setting, configuration),
            **_sizes(part, setting, configuration),
        }
        for task, part in ((task, results.of_task(task)) for task in results.tasks)
        for setting in part.settings
        for configuration in part.measured(setting)
    ]


def write_csv(path: Path, results: SuiteResults) -> None:
    """Write :func:`csv_rows` to ``path``, with a line of names above them.

    Raises:
        OVKVCrushError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows(results))
    write_text(path, text.getvalue())


def _figures(
    results: SuiteResults, setting: str, configuration: Configuration, turns: str = "all"
) -> dict[str, Any]:
    estimate = results.estimate(setting, configuration, turns)
    return {
        "score": estimate and estimate.mean,
        "low": estimate and estimate.low,
        "high": estimate and estimate.high,
        "n": results.num_scored(setting, configuration, turns),
        "of_full": results.of_full(setting, configuration, turns),
    }


def _sizes(results: SuiteResults, setting: str, configuration: Configuration) -> dict[str, Any]:
    return {
        "kept": results.kept(setting, configuration),
        "kv_bytes": results.kv_bytes(setting, configuration),
    }


def _as_dict(comparison: Comparison) -> dict[str, Any]:
    return {
        **identity(comparison.ours),
        "to": comparison.theirs.name,
        "setting": comparison.setting,
        **{
            turns: difference
            and {**difference.to_dict(), "inside_interval": difference.is_inside_interval}
            for turns, difference in comparison.by_turns.items()
        },
    }
