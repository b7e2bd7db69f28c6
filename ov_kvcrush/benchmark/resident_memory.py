"""The most memory this process has had resident since it last asked to be counted anew."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"


def resident_bytes() -> int:
    """What this process has resident now, files that are mapped included."""
    return int(psutil.Process().memory_info().rss)


def forget_peak() -> None:
    """Count the peak from now on, where the system allows it; else it is that of all its life."""
    with suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")


def peak_resident_bytes() -> int:
    """The most this process has had resident, as the kernel counts it (``VmHWM``)."""
    with suppress(OSError):
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resident_bytes()
