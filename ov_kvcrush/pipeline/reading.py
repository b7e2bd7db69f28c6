"""How far the reading of prompts is, for those who wait for the first token."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ov_kvcrush.runtime.generation.request import Request


@dataclass(frozen=True)
class ReadingProgress:
    """How much of a call's prompts has been read; what was cached before does not count.

    Attributes:
        num_read: tokens read.
        num_tokens: tokens to read.
        seconds: since the call began.
    """

    num_read: int
    num_tokens: int
    seconds: float

    @property
    def share(self) -> float:
        """The part that has been read, 0 to 1."""
        return self.num_read / self.num_tokens if self.num_tokens else 1.0

    @property
    def tokens_per_second(self) -> float:
        """Mean speed so far; 0 before there is one."""
        return self.num_read / self.seconds if self.seconds > 0 else 0.0

    @classmethod
    def of(cls, requests: Sequence[Request]) -> ReadingProgress:
        """That of ``requests``, which came in together."""
        counts = [_count(request) for request in requests]
        begun = min(request.generations[0].metrics.arrived for request in requests)
        return cls(
            num_read=sum(read for read, _ in counts),
            num_tokens=sum(total for _, total in counts),
            seconds=time.perf_counter() - begun,
        )


OnReading: TypeAlias = Callable[[ReadingProgress], None]
"""Told how far the reading is: before it begins, and after each step."""


def _count(request: Request) -> tuple[int, int]:
    """Tokens of its prompt that have been read, and that are to be."""
    lead = request.generations[0]
    cached = reused = 0
    if lead.sequence is not None:
        cached, reused = lead.sequence.num_cached, lead.sequence.num_reused
    total = len(request.prompt_ids) - reused
    # A first token comes after the whole prompt, and not every engine has sequences that tell more.
    return (total if lead.metrics.token_times else max(0, cached - reused)), total
