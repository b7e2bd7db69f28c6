"""What a sequence has grown by, for readers in other threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

TopTokens: TypeAlias = Sequence[tuple[int, float]]
"""The likeliest tokens of one place and their natural log probabilities, the likeliest first."""


@dataclass(frozen=True)
class Progress:
    """Tokens that have been generated, and what is certain of all so far.

    Attributes:
        token_ids: new ones, also those that a stop string may still take back.
        log_probs: of each of them.
        top: of each of them, empty where ``logprobs`` does not ask for it.
        num_settled: how many of all tokens so far are certain to be the answer's.
        text_end: how many characters of their text are certain to be the answer's; None is all.
        finished: nothing follows; the settled tokens and text are the answer.
    """

    token_ids: Sequence[int]
    log_probs: Sequence[float]
    top: Sequence[TopTokens]
    num_settled: int
    text_end: int | None
    finished: bool
