"""Words that names are put together of.

In each list no word begins or ends with another one, so that no name is a part of a longer one.
"""

from __future__ import annotations

from pathlib import Path


def _read(name: str) -> tuple[str, ...]:
    path = Path(__file__).with_name(f"{name}.txt")
    return tuple(path.read_text(encoding="utf-8").split())


ADJECTIVES = _read("adjectives")
NOUNS = _read("nouns")
VERBS = _read("verbs")

PEOPLE = _read("people")
"""First names, none of which is in the prose."""
