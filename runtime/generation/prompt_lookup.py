"""Drafts from a sequence's own text: what followed where its last tokens stood before.

Prompt lookup decoding (Saxena, github.com/apoorvumang/prompt-lookup-decoding, 2023): text that is
copied, edited or quoted repeats long runs of tokens, and what followed once is a good guess of what
follows now.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

# One token alone stands before too many different ones.
_LEAST_MATCH = 2
LONGEST_MATCH = 16
"""Tokens of a match that are looked at; one that is longer says no more."""

# Places with the same beginning that are compared: the newest ones.
_MOST_PLACES = 8
# Of a longer sequence the newest tokens are known, between so many and twice as many.
_LEAST_KNOWN = 32768


@dataclass(frozen=True)
class Draft:
    """A guess of what follows.

    Attributes:
        tokens: that may follow, in order.
        match: so many tokens before them stood there before.
    """

    tokens: tuple[int, ...] = ()
    match: int = 0


NO_DRAFT = Draft()


class PromptLookup:
    """Finds where the last tokens of a sequence stood before.

    Places are chained by the tokens that end there, as LZ77 compressors chain theirs (Deutsch, RFC
    1951): a token costs one look-up in a table, a draft a few comparisons, and what is kept is
    bounded.

    Args:
        longest: tokens of a match that count at most.
        known: of a longer sequence the newest tokens are known, so many at least.

    Attributes:
        num_taken: tokens of the sequence that it was given.
    """

    def __init__(self, longest: int = LONGEST_MATCH, known: int = _LEAST_KNOWN) -> None:
        self._longest = longest
        self._least = min(_LEAST_MATCH, longest)
        self._known = known
        self._tokens = array("q")
        # By its last tokens the newest place, and of each place the one before it; a place is where
        # these tokens end, -1 is none.
        self._newest: dict[tuple[int, ...], int] = {}
        self._before = array("i")
        self.num_taken = 0

    def extend(self, tokens: Iterable[int]) -> None:
        """Take in the next ``tokens`` of the sequence."""
        for token in tokens:
            self.num_taken += 1
            self._push(token)
        if len(self._tokens) > 2 * self._known:
            self._forget()

    def draft(self, count: int) -> Draft:
        """``count`` tokens that may follow: what did after the longest match, the newest of equals.

        Where the match reaches to the end, as in a text that repeats itself, so does the draft,
        again and again. Nothing where the last tokens never stood before.
        """
        tokens = self._tokens
        if count < 1 or len(tokens) <= self._least:
            return NO_DRAFT
        best, match = -1, 0
        place = self._before[-1]
        for _ in range(_MOST_PLACES):
            if place < 0:
                break
            length = self._match(place)
            if length > match:
                best, match = place, length
                if match == self._longest:
                    break
            place = self._before[place - 1]
        if best < 0:
            return NO_DRAFT
        period = len(tokens) - best
        return Draft(tuple(tokens[best + n % period] for n in range(count)), match)

    def _push(self, token: int) -> None:
        tokens = self._tokens
        tokens.append(token)
        end = len(tokens)
        if end < self._least:
            self._before.append(-1)
            return
        key = tuple(tokens[end - self._least :])
        self._before.append(self._newest.get(key, -1))
        self._newest[key] = end

    def _match(self, place: int) -> int:
        """How many tokens before ``place`` are those at the end, at most the longest."""
        tokens, end = self._tokens, len(self._tokens)
        most = min(self._longest, place)
        length = self._least
        while length < most and tokens[place - length - 1] == tokens[end - length - 1]:
            length += 1
        return length

    def _forget(self) -> None:
        """Know the newest tokens only. It is done once in as many tokens as it keeps."""
        kept = self._tokens[len(self._tokens) - self._known :]
        self._tokens, self._before, self._newest = array("q"), array("i"), {}
        for token in kept:
            self._push(token)
