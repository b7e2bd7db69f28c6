"""Keeps OpenVINO from AMX on a machine that offers it without saying how its tiles are made.

A virtual machine may show the AMX flags and hide the CPUID leaf that describes the tiles. oneDNN
believes the flags, configures no tile, and the first bf16 inference kills the process (illegal
instruction).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_TILE_LEAF = 0x1D
# The highest instruction set of oneDNN that needs no tiles; on lesser processors it is no limit.
_WITHOUT_TILES = "AVX512_CORE_FP16"


def avoid_undescribed_tiles(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Limit oneDNN to what needs no tiles, where tiles cannot be had and the user sets no limit.

    To be called before OpenVINO compiles anything: oneDNN looks only once.
    """
    if not _tiles_are_described(_read(cpuinfo)):
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", _WITHOUT_TILES)


def _read(cpuinfo: Path) -> str:
    try:
        return cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: nothing is known
        return ""


def _tiles_are_described(text: str) -> bool:
    """Whether the processor has no tiles, or also the CPUID leaf that tells their sizes."""
    highest_leaf = re.search(r"^cpuid level\s*:\s*(\d+)", text, re.MULTILINE)
    if highest_leaf is None or not re.search(r"^flags\s*:.*\bamx_tile\b", text, re.MULTILINE):
        return True
    return int(highest_leaf[1]) >= _TILE_LEAF


def has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether oneDNN computes bf16 with tiles: they are there, described, and not forbidden."""
    text = _read(cpuinfo)
    is_there = re.search(r"^flags\s*:.*\bamx_bf16\b", text, re.MULTILINE) is not None
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return is_there and _tiles_are_described(text) and (not limit or "AMX" in limit)
