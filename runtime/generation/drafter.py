"""The drafts of one sequence: where they come from, and what has become of them."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

from ov_kvcrush.errors import UnsupportedError
from ov_kvcrush.runtime.generation.draft_policy import DraftRecord
from ov_kvcrush.runtime.generation.prompt_lookup import (
    LONGEST_MATCH,
    NO_DRAFT,
    Draft,
    PromptLookup,
)

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig

DEFAULT_DRAFTS = 10
"""Tokens of a draft that pay in text that is copied, where a step of them is not much longer."""


class Drafter:
    """Drafts what may follow a sequence, of its own text.

    Args:
        most: tokens of a draft.
        longest: tokens of a match that count.

    Attributes:
        most: tokens of a draft.
        record: what has become of its drafts.
    """

    def __init__(self, most: int, longest: int = LONGEST_MATCH) -> None:
        self.most = most
        self.record = DraftRecord()
        self._longest = longest
        self._lookup: PromptLookup | None = None

    def draft(self, tokens: SequenceOf[int], count: int) -> Draft:
        """At most ``count`` tokens that may follow ``tokens``, which have grown since the last."""
        if count < 1:
            return NO_DRAFT
        if self._lookup is None:
            self._lookup = PromptLookup(self._longest)
        self._lookup.extend(tokens[self._lookup.num_taken :])
        return self._lookup.draft(count)


def make_drafter(config: GenerationConfig, most: int) -> Drafter | None:
    """What drafts for a sequence with the settings ``config``; None for nothing.

    Args:
        config: its ``num_assistant_tokens`` goes before ``most``, and ``max_ngram_size`` bounds
            the matches.
        most: tokens of a draft; 0 where there are none.
    """
    if not most:
        return None
    return Drafter(config.num_assistant_tokens or most, config.max_ngram_size or LONGEST_MATCH)


def require_drafts(config: GenerationConfig, most: int) -> None:
    """Refuse settings of drafts where none are made: ``most`` is 0.

    Raises:
        UnsupportedError: ``config`` has some.
    """
    for name in ("num_assistant_tokens", "max_ngram_size"):
        value = getattr(config, name)
        if value and not most:
            raise UnsupportedError(
                f"{name} is {value}, and the model was loaded without prompt lookup",
                f"Leave {name} out, or load the model with prompt_lookup=True.",
            )
