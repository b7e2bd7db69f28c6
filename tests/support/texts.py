"""Texts that are all facts, so that what was kept of them shows."""

from __future__ import annotations

import numpy as np


def document(seed: int = 0) -> str:
    """Random numbers of 60 rooms, about 250 tokens."""
    numbers = np.random.default_rng(seed).integers(100, 999, 60)
    return " ".join(f"Room {n} is {number}." for n, number in enumerate(numbers))


def rooms(count: int) -> str:
    """The numbers of so many rooms, about 6 tokens each."""
    return " ".join(f"Room {n} is {7 * n}." for n in range(count))
