"""Drafts that tests know beforehand: some of them come true, however the model would decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from ov_kvcrush.runtime.generation.drafter import Drafter
from ov_kvcrush.runtime.generation.prompt_lookup import Draft
from ov_kvcrush.runtime.model.paged_model import MOST_DECODE_TOKENS
from ov_kvcrush.runtime.paged import drafting

LENGTH = 7
"""Tokens of a draft."""


@contextmanager
def no_drafts() -> Iterator[None]:
    """Nothing is drafted for requests that begin here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafting, "make_drafter", lambda config, most: None)
        yield


@contextmanager
def guesses(answers: Sequence[list[int]], share_true: float = 0.8) -> Iterator[None]:
    """Every sequence is drafted for in every step, as long as it may be.

    What is guessed goes on as the one of ``answers`` that begins as the sequence does, prompts
    included; each token of it is another one now and then, ``share_true`` of them are right.
    """
    random = np.random.default_rng(0)

    class Guessing(Drafter):
        def draft(self, tokens: Sequence[int], count: int) -> Draft:
            known = list(tokens)
            following = next((a[len(known) :] for a in answers if a[: len(known)] == known), [])
            guess = [*following, *random.integers(8, 5000, LENGTH).tolist()][: max(0, count)]
            wrong = random.random(len(guess)) >= share_true
            return Draft(tuple(t + int(w) for t, w in zip(guess, wrong, strict=True)), 9)

    def make(config: Any, most: int) -> Drafter | None:
        return Guessing(most) if most else None

    def all_of_them(_: Any, matches: Any, limits: Sequence[int], *costs: Any) -> list[int]:
        room = MOST_DECODE_TOKENS - len(limits)
        return [min(limit, room // len(limits)) for limit in limits]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafting, "make_drafter", make)
        patch.setattr(drafting, "share_out", all_of_them)
        yield
