"""What came out of a benchmark, for people as tables and for programs as JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from ov_kvcrush.benchmark.results import METRICS, Cell, Ratio
from ov_kvcrush.benchmark.roofline import Roofline
from ov_kvcrush.benchmark.step_clock import INFERENCE, INFERENCES, PARTS
from ov_kvcrush.machine import describe_machine

_COUNTED = ("kv_bytes", "kv_bytes_peak")
"""Figures that are the same in every turn."""

_OF_SEVERAL = "requests_per_minute"
"""Of one request it tells no more than the throughput."""


@dataclass(frozen=True)
class Report:
    """A benchmark as far as it has got.

    Attributes:
        cells: that are done.
        roofline: of the model on this machine.
        num_threads: processors of each side.
        others_percent: what other processes took of all processors meanwhile.
    """

    cells: Sequence[Cell]
    roofline: Roofline
    num_threads: int
    others_percent: float

    def tables(self) -> Iterator[Table]:
        """For each cell its figures, its ratios where it has several sides, and its times."""
        for cell in self.cells:
            yield _figures_table(cell, self.roofline)
            if len(cell.engines) > 1:
                yield _ratio_table(cell)
            if any(cell.parts(name) for name in cell.engines):
                yield _parts_table(cell)

    def last_lines(self) -> list[str]:
        """What the figures are to be read with; the last is about other processes."""
        roofline = self.roofline
        return [
            f"roofline: {roofline.weight_bytes / 1e6:,.0f} MB of weights and the KV cache, read at "
            f"{roofline.bandwidth / 1e9:.1f} GB/s ({self.num_threads} threads, measured)",
            f"other processes took {self.others_percent:.0f} % of all processors meanwhile",
        ]

    def to_dict(self, with_turns: bool) -> dict[str, Any]:
        """JSON values; times are seconds.

        Args:
            with_turns: every turn's figures too.
        """
        return {
            "machine": describe_machine(),
            "num_threads": self.num_threads,
            "others_cpu_percent": self.others_percent,
            "roofline": asdict(self.roofline),
            "cells": [cell.to_dict(self.roofline, with_turns) for cell in self.cells],
        }


def _figures_table(cell: Cell, roofline: Roofline) -> Table:
    table = Table(title=cell.title, title_justify="left")
    table.add_column("")
    shown = [
        name
        for name in METRICS
        if (name != _OF_SEVERAL or cell.workload.num_requests > 1)
        and any(cell.typical(engine, name) is not None for engine in cell.engines)
    ]
    for name in shown:
        metric = METRICS[name]
        table.add_column(f"{metric.title}\n{metric.unit}", justify="right")
    table.add_column("of roofline\n%", justify="right")
    for engine in cell.engines:
        cells = [
            _number(value, METRICS[name].factor)
            for name in shown
            for value in [cell.typical(engine, name)]
        ]
        of_roofline = cell.of_roofline(engine, roofline)
        share = "–" if of_roofline is None else f"{100 * of_roofline:.0f}"
        table.add_row(cell.side_title(engine), *cells, share)
    return table


def _ratio_table(cell: Cell) -> Table:
    """Median of the turns' own ratios, and the least and the most of them."""
    reference = cell.side_title(cell.reference)
    others = [name for name in cell.engines if name != cell.reference]
    table = Table(
        title=f"{reference} / the other by turn, median (least–most)", title_justify="left"
    )
    table.add_column("the other")
    ratios = {name: [cell.ratio(other, name) for other in others] for name in METRICS}
    shown = [name for name, found in ratios.items() if any(found) and name != _OF_SEVERAL]
    for name in shown:
        table.add_column(METRICS[name].title, justify="right")
    for number, other in enumerate(others):
        cells = [_spread(ratios[name][number], name in _COUNTED) for name in shown]
        table.add_row(cell.side_title(other), *cells)
    return table


def _parts_table(cell: Cell) -> Table:
    table = Table(title="Where the time goes, %", title_justify="left")
    table.add_column("")
    shares = {name: cell.parts(name) for name in cell.engines}
    known = {part for parts in shares.values() for part in parts}
    shown = [part for part in PARTS if part in known and part not in (INFERENCE, *INFERENCES)]
    table.add_column(f"{INFERENCE}\n{' + '.join(INFERENCES)}", justify="right")
    for part in shown:
        table.add_column(part, justify="right")
    for name, parts in shares.items():
        if parts:
            cells = [f"{100 * parts[p]:.1f}" if p in parts else "–" for p in shown]
            table.add_row(cell.side_title(name), _inference(parts), *cells)
    return table


def _inference(parts: dict[str, float]) -> str:
    """All of it, and what it is made of where that is told."""
    told = [100 * parts.get(part, 0.0) for part in INFERENCES]
    if INFERENCE in parts:
        return f"{100 * parts[INFERENCE]:.1f}"
    return f"{sum(told):.1f} = {' + '.join(f'{share:.1f}' for share in told)}"


def _number(value: float | None, factor: float) -> str:
    if value is None:
        return "–"
    shown = factor * value
    digits = ",.0f" if shown >= 999.5 else ".1f" if shown >= 99.95 else "#.3g"
    return format(shown, digits)


def _spread(ratio: Ratio | None, is_counted: bool) -> str:
    if ratio is None:
        return "–"
    if is_counted:
        return f"{ratio.median:.2f}"
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
