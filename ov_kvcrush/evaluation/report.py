"""What came out, for people as tables and for programs as JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.dataset import KINDS
from ov_kvcrush.evaluation.results import Outcome
from ov_kvcrush.evaluation.stats import Difference, paired_difference

_GENAI_NOTE = (
    "genai: openvino_genai's eviction reads the whole history again for every question, uncut, so "
    "it knows each question before it evicts; the others are cut before later questions are known."
)
_COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((kind, (kind,)) for kind in KINDS),
    ("all", KINDS),
)
"""Questions that are counted together."""


def accuracy_table(outcomes: Sequence[Outcome]) -> Table:
    """Right answers and KV cache by configuration; the first is the full cache."""
    full = outcomes[0]
    names = {outcome.configuration.engine for outcome in outcomes}
    table = Table(
        title=f"Right answers, {len(full.records)} conversations; MB of KV cache, mean and peak",
        caption=_GENAI_NOTE if "genai" in names else None,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("cache")
    for name, _ in _COLUMNS:
        table.add_column(name, justify="right")
        table.add_column("of full", justify="right")
    table.add_column("KV MB", justify="right")
    table.add_column("peak", justify="right")
    for outcome in outcomes:
        cells = []
        for _, kinds in _COLUMNS:
            share = outcome.of_full(full, kinds)
            cells += [_count(outcome, kinds), "–" if share is None else f"{share:.1%}"]
        sizes = (outcome.mean_kv_bytes, outcome.peak_kv_bytes)
        cells += [f"{num_bytes / 1e6:,.2f}" for num_bytes in sizes]
        table.add_row(outcome.configuration.name, *cells)
    return table


def task_table(outcomes: Sequence[Outcome]) -> Table:
    """Right answers to all questions, by task and configuration."""
    table = Table(title="Right answers by task", title_justify="left")
    table.add_column("task")
    for outcome in outcomes:
        table.add_column(outcome.configuration.name, justify="right")
    for task in _tasks(outcomes):
        table.add_row(task, *(_count(outcome.of_task(task), KINDS) for outcome in outcomes))
    return table


def difference_table(outcomes: Sequence[Outcome], policy: str) -> Table:
    """Differences to ``policy`` in percentage points, with 95 % intervals."""
    table = Table(
        title=f"Difference to {policy} in percentage points [95 % interval]", title_justify="left"
    )
    table.add_column("cache")
    for name, _ in _COLUMNS:
        table.add_column(name, justify="right")
    for outcome, other in _pairs(outcomes, policy):
        cells = [_interval(_difference(outcome, other, kinds)) for _, kinds in _COLUMNS]
        table.add_row(outcome.configuration.name, *cells)
    return table


def summary(
    outcomes: Sequence[Outcome], compare: str | None = None, with_examples: bool = False
) -> dict[str, Any]:
    """All figures as JSON values.

    Args:
        outcomes: the full cache first.
        compare: policy to which differences are given.
        with_examples: every conversation's answers and sizes too.
    """
    full = outcomes[0]
    body: dict[str, Any] = {
        "num_conversations": len(full.records),
        "configurations": [
            {
                **identity(outcome.configuration),
                **{name: _rates(outcome, full, kinds) for name, kinds in _COLUMNS},
                "by_task": {
                    task: _rates(outcome.of_task(task), full.of_task(task), KINDS)
                    for task in _tasks(outcomes)
                },
                "kv_bytes_mean": outcome.mean_kv_bytes,
                "kv_bytes_peak": outcome.peak_kv_bytes,
                "mean_budget_share": outcome.mean_budget_share,
                "num_restarts": outcome.num_restarts,
                **(
                    {"conversations": [record.to_dict() for record in outcome.records]}
                    if with_examples
                    else {}
                ),
            }
            for outcome in outcomes
        ],
    }
    if compare is not None:
        body["differences"] = [
            {**identity(outcome.configuration), "to": compare}
            | {name: _as_dict(_difference(outcome, other, kinds)) for name, kinds in _COLUMNS}
            for outcome, other in _pairs(outcomes, compare)
        ]
    return body


def _pairs(outcomes: Sequence[Outcome], policy: str) -> Iterator[tuple[Outcome, Outcome]]:
    """Each outcome with that of ``policy`` at the same precision and, where it has one, budget."""
    others = {_place(o.configuration): o for o in outcomes if o.configuration.policy == policy}
    for outcome in outcomes:
        keep, precision = _place(outcome.configuration)
        other = others.get((keep, precision)) or others.get((None, precision))
        if other is not None and other is not outcome:
            yield outcome, other


def _place(configuration: Configuration) -> tuple[Any, Any]:
    return configuration.keep, configuration.precision


def _difference(ours: Outcome, theirs: Outcome, kinds: Sequence[str]) -> Difference | None:
    return paired_difference(
        [record.num_right(kinds) for record in ours.records],
        [record.num_right(kinds) for record in theirs.records],
        [record.num_asked(kinds) for record in ours.records],
    )


def _tasks(outcomes: Sequence[Outcome]) -> list[str]:
    return sorted({record.example.task for record in outcomes[0].records})


def identity(configuration: Configuration) -> dict[str, Any]:
    """What a configuration is, as JSON values."""
    precision = configuration.precision
    return {
        "name": configuration.name,
        "policy": configuration.policy,
        "engine": configuration.engine,
        "keep": None if configuration.keep is None else float(configuration.keep),
        "precision": "/".join(precision) if precision else None,
    }


def _rates(outcome: Outcome, full: Outcome, kinds: Sequence[str]) -> dict[str, Any]:
    return {
        "right": outcome.num_right(kinds),
        "asked": outcome.num_asked(kinds),
        "of_full": outcome.of_full(full, kinds),
    }


def _count(outcome: Outcome, kinds: Sequence[str]) -> str:
    return f"{outcome.num_right(kinds)}/{outcome.num_asked(kinds)}"


def _as_dict(difference: Difference | None) -> dict[str, float] | None:
    return None if difference is None else difference.to_dict()


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    return f"{difference.points:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"
