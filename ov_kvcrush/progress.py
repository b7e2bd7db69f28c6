"""How a long piece of work tells its caller where it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives steps as they begin, and what the user ought to know besides."""

    def step(self, number: int, total: int, title: str) -> None:
        """Step ``number`` of ``total`` begins, and the one before it is done."""

    def advance(self, share: float) -> None:
        """So much of the step is done, 0 to 1. Not every step knows."""

    def note(self, text: str) -> None:
        """Something worth a line that is not a failure."""


class Silent:
    """A progress that says nothing."""

    def step(self, number: int, total: int, title: str) -> None:
        """Ignore the step."""

    def advance(self, share: float) -> None:
        """Ignore the share."""

    def note(self, text: str) -> None:
        """Ignore the note."""
