"""A sequence's cache between two requests: a chat's, or a prefix that others begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ov_kvcrush.runtime.sequences.sequence import Sequence


class Session:
    """A chat's cache between requests. Give it with each request; the engine fills and reuses it.

    What it has cached goes when nobody holds it any more.

    Args:
        pinned: as below.
        is_prefix: as below.
        owner: as below.

    Attributes:
        sequence: tokens and cache of the last request, None before the first and after the engine
            needed the pages for others.
        lost: why what it had cached before cannot be gone on from, which its next request tells;
            empty where it can, or nothing was cached.
        busy: whether a request is running on it.
        is_closed: what the running request leaves is not to be kept.
        pinned: the engine may not take its pages for others.
        is_prefix: it is there for others to begin with, and not a chat.
        thorough: what is read for it is read twice, to be cut by what the second reading looked at.
        owner: whose it is: what it has cached is found by requests of the same owner only.
    """

    def __init__(
        self,
        pinned: bool = False,
        is_prefix: bool = False,
        owner: str = "",
        thorough: bool = False,
    ) -> None:
        self.sequence: Sequence | None = None
        self.lost = ""
        self.busy = False
        self.is_closed = False
        self.pinned = pinned
        self.is_prefix = is_prefix
        self.owner = owner
        self.thorough = thorough

    @property
    def token_ids(self) -> list[int]:
        """Prompt and answer tokens of the last request, empty if there is no cache."""
        return [] if self.sequence is None else list(self.sequence.tokens)
