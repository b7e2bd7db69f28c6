"""A sequence's cache between two requests: a chat's, or a prefix that others begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ov_kvcrush.runtime.sequences.sequence import Sequence


class Session:
    """A chat's cache between requests. Give it with each request; the engine fills and reuses it.

    Attributes:
        sequence: tokens and cache of the last request, None before the first and after the engine
            needed the pages for others.
        busy: whether a request is running on it.
        pinned: the engine may not take its pages for others.
        is_prefix: it is there for others to begin with, and no chat.
    """

    def __init__(self, pinned: bool = False, is_prefix: bool = False) -> None:
        self.sequence: Sequence | None = None
        self.busy = False
        self.pinned = pinned
        self.is_prefix = is_prefix

    @property
    def token_ids(self) -> list[int]:
        """Prompt and answer tokens of the last request, empty if there is no cache."""
        return [] if self.sequence is None else list(self.sequence.tokens)
