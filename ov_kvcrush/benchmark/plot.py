"""A benchmark as a picture: times, memory and where the time goes. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ov_kvcrush.benchmark.report import Report
from ov_kvcrush.benchmark.results import METRICS, Cell
from ov_kvcrush.benchmark.step_clock import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = ("ttft", "tpot", "kv_bytes_peak", "resident_bytes")
_WIDTH, _ROW_HEIGHT = 17, 3.6
_COLORS_OF_PARTS = "Set2"  # of others than the sides'


def save_benchmark_plot(report: Report, path: Path) -> None:
    """Draw a row a cell into ``path``: bars with the least and the most of the turns.

    A tick on a bar of TPOT is what reading weights and cache alone would take.
    """
    # Without pyplot no backend is chosen, so that no display is looked for.
    from matplotlib.figure import Figure

    cells = report.cells
    figure = Figure(figsize=(_WIDTH, _ROW_HEIGHT * len(cells)), layout="constrained")
    rows = figure.subfigures(len(cells), 1, squeeze=False)[:, 0]
    for cell, row in zip(cells, rows, strict=True):
        row.suptitle(cell.title, fontsize=11)
        axes = row.subplots(1, len(_PANELS) + 1, sharey=True)
        for name, one in zip(_PANELS, axes[:-1], strict=True):
            _draw_metric(one, cell, name)
        tpot = axes[_PANELS.index("tpot")]
        _mark(tpot, [cell.least_tpot(engine, report.roofline) for engine in cell.engines])
        _draw_parts(axes[-1], cell)
        axes[0].set_yticks(range(len(cell.engines)), [cell.side_title(e) for e in cell.engines])
        axes[0].invert_yaxis()
    figure.savefig(path, dpi=130)


def _draw_metric(axes: Axes, cell: Cell, name: str) -> None:
    metric = METRICS[name]
    for place, engine in enumerate(cell.engines):
        value = cell.typical(engine, name)
        if value is None:
            continue
        turns = [one for one in cell.values(engine, name) if one is not None]
        spread = [[value - min(turns)], [max(turns) - value]]
        axes.barh(
            place,
            metric.factor * value,
            xerr=[[metric.factor * side[0]] for side in spread],
            color=f"C{place}",
            error_kw={"elinewidth": 1, "capsize": 3},
        )
    axes.set_xlabel(f"{metric.title} [{metric.unit}]")
    axes.grid(axis="x", alpha=0.3)


def _mark(axes: Axes, seconds: Sequence[float | None]) -> None:
    for place, least in enumerate(seconds):
        if least is not None:
            axes.vlines(1e3 * least, place - 0.4, place + 0.4, color="black", linewidth=2)


def _draw_parts(axes: Axes, cell: Cell) -> None:
    shares = [cell.parts(engine) for engine in cell.engines]
    shown = [part for part in PARTS if any(part in parts for parts in shares)]
    _stack(axes, shares, shown)
    axes.set_xlabel("where the time goes [%]")
    if shown:
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _stack(axes: Axes, shares: Sequence[dict[str, float]], shown: Sequence[str]) -> None:
    from matplotlib import colormaps

    lefts = [0.0] * len(shares)
    for part in shown:
        widths = [100 * parts.get(part, 0.0) for parts in shares]
        color = colormaps[_COLORS_OF_PARTS](PARTS.index(part))
        axes.barh(range(len(shares)), widths, left=lefts, label=part, color=color)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
