"""A part of a long piece of work: what its user reads when it begins, and the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step of an export or a calibration."""

    title: str
    run: Callable[[], object]
