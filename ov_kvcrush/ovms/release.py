"""Releases of OpenVINO Model Server, as far as what a graph may say depends on them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ov_kvcrush.errors import ConfigError, UnsupportedError


@dataclass(frozen=True, order=True)
class Release:
    """One of them; patches make no difference here.

    Attributes:
        year: 2026 of 2026.2.1.
        number: 2 of 2026.2.1.
    """

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Release:
        """The release called ``text``, such as ``2026.2`` or ``2026.2.1``.

        Raises:
            ConfigError: it is not the name of a release.
            UnsupportedError: it is from before there was a setting for all that is written.
        """
        parts = re.fullmatch(r"v?(20\d\d)\.(\d{1,2})(?:\.\d{1,2})*", text.strip())
        if parts is None:
            raise ConfigError(
                f"{text!r} is not a release of OpenVINO Model Server",
                f"Name it like {NEWEST} or {FIRST_WITH_CONTEXTS}.1.",
            )
        release = cls(int(parts[1]), int(parts[2]))
        if release < FIRST_WITH_KVCRUSH:
            raise UnsupportedError(
                f"OpenVINO Model Server {release} has no setting for KVCrush in its graphs",
                f"Use {FIRST_WITH_KVCRUSH} or a later one, or serve with: ov-kvcrush serve",
            )
        return release

    @property
    def has_execution_contexts(self) -> bool:
        """Whether its calculator takes that side packet; earlier ones refuse a graph with it."""
        return self >= FIRST_WITH_CONTEXTS

    def __str__(self) -> str:
        return f"{self.year}.{self.number}"


FIRST_WITH_KVCRUSH = Release(2025, 4)
FIRST_WITH_CONTEXTS = Release(2026, 2)
NEWEST = Release(2026, 3)
"""The newest whose sources were read."""
