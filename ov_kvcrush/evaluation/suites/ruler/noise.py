"""The dullest haystack: a few sentences over and over."""

from __future__ import annotations

from itertools import cycle, islice

_SENTENCES = (
    "The lamp is lit.",
    "The door is shut.",
    "Rain falls on the roof.",
    "The clock ticks.",
    "And it all begins again.",
)


def noise(num_sentences: int) -> list[str]:
    """So many sentences, as pieces for ``place``."""
    return [f" {sentence}" for sentence in islice(cycle(_SENTENCES), num_sentences)]
