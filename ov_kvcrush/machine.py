"""The machine that is measured on, and what other processes take of it meanwhile."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("openvino", "openvino-genai", "ov-kvcrush", "numpy", "numba")


def num_processors() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """Processor, memory and versions, as JSON values."""
    return {
        "processor": processor_name(),
        "num_processors": num_processors(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def processor_name() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


class LoadMeter:
    """Measures what part of the processors other processes take, from its making on."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def others_percent(self) -> float:
        """Percent of all processors' time that went to other processes."""
        wall = (time.perf_counter() - self._begun) * (os.cpu_count() or 1)
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return max(0.0, 100 * others / wall)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    # Linux counts what guests take as their host's user time too.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - guests)


def _own_seconds() -> float:
    """Of this process, those it has started and seen end, and those that run."""
    seconds = sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            times = child.cpu_times()
            seconds += times.user + times.system
    return seconds
