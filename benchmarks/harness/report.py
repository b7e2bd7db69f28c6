"""What a benchmark prints: rows with medians and ratios, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One number on both sides.

    Attributes:
        metric: what it is.
        unit: of ``ours`` and ``theirs``.
        turns: (ours, theirs) of each turn; theirs is None where only ours has such a number.
        target: the most that the ratio should be, or ours where there is no theirs; None without.
    """

    metric: str
    unit: str
    turns: Sequence[tuple[float, float | None]]
    target: float | None = None

    @property
    def ours(self) -> float:
        """Median over the turns."""
        return median(ours for ours, _ in self.turns)

    @property
    def theirs(self) -> float | None:
        """Median over the turns."""
        known = [theirs for _, theirs in self.turns if theirs is not None]
        return median(known) if known else None

    @property
    def ratio(self) -> float | None:
        """Ours / theirs of each turn, and of these the median: what slows both cancels out."""
        ratios = [ours / theirs for ours, theirs in self.turns if theirs]
        return median(ratios) if ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return (self.ours if self.ratio is None else self.ratio) <= self.target

    def to_dict(self) -> dict[str, Any]:
        """JSON values, medians and every turn."""
        medians = {"ours": self.ours, "theirs": self.theirs, "ratio": self.ratio, "met": self.met}
        return {**asdict(self), **medians}


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print ``rows`` as a table on stdout."""
    table = Table(title=title, title_justify="left")
    for name in ("", "ov-kvcrush", "openvino_genai", "ratio", "target", ""):
        table.add_column(name, justify="left" if not name else "right")
    for row in rows:
        table.add_row(
            f"{row.metric} ({row.unit})",
            f"{row.ours:,.2f}",
            "" if row.theirs is None else f"{row.theirs:,.2f}",
            "" if row.ratio is None else f"{row.ratio:.3f}",
            "" if row.target is None else f"≤ {row.target:g}",
            {None: "", True: "met", False: "missed"}[row.met],
        )
    Console().print(table)


def machine() -> dict[str, Any]:
    """Processor, memory and versions, as JSON values."""
    names = ("openvino", "openvino-genai", "ov-kvcrush", "numpy", "numba")
    return {
        "cpu": _cpu_name(),
        "cpus": len(psutil.Process().cpu_affinity()),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


class LoadMeter:
    """Measures what part of the processors other processes take from its making on."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def others_percent(self) -> float:
        """Percent of all processors' time taken by other processes."""
        wall = (time.perf_counter() - self._begun) * (os.cpu_count() or 1)
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return max(0.0, 100 * others / wall)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _own_seconds() -> float:
    """Of this process and of those it has started and seen end."""
    return sum(os.times()[:4])


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
