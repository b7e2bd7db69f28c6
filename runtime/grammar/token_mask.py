"""Which tokens a grammar leaves for the next place of one sequence."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.errors import GrammarFailedError

if TYPE_CHECKING:
    from llguidance import LLMatcher


class TokenMask:
    """Follows one sequence, and says of each place which tokens may stand there.

    Args:
        matcher: of the sequence alone, at its beginning.
        end_bit: the id that stands for the end of the text: all tokens are below it.
        ends: the tokens that end the answer; empty where it ends by itself.
    """

    def __init__(self, matcher: LLMatcher, end_bit: int, ends: Collection[int]) -> None:
        self._matcher = matcher
        self._end_bit = end_bit
        self._ends = np.fromiter(sorted(ends), np.int64)
        self._words = np.zeros(end_bit // 32 + 1, np.uint32)
        self._num_taken = 0
        self._is_over = False

    def apply(self, row: NDArray[np.float32]) -> None:
        """Put what may not come next in ``row``, ``[vocab]`` logits, to -infinity, in place.

        Raises:
            GrammarFailedError: the grammar has become too large.
        """
        words = self._words
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self._require_health()
        np.invert(words, out=words)
        excluded = np.unpackbits(words.view(np.uint8), count=self._end_bit + 1, bitorder="little")
        ends = self._ends[self._ends < len(row)]
        may_end = not excluded[self._end_bit]
        kept = row[ends]
        count = min(len(row), self._end_bit)
        np.copyto(row[:count], -np.inf, where=excluded[:count].view(np.bool_))
        row[count:] = -np.inf
        if may_end:
            row[ends] = kept

    def take(self, token: int) -> None:
        """Go on behind ``token``, which :meth:`apply` has left.

        Raises:
            GrammarFailedError: as :meth:`apply`.
        """
        self._num_taken += 1
        if token in self._ends and self._matcher.is_accepting():
            self._is_over = True
        else:
            self._matcher.consume_token(token)
            self._require_health()

    @property
    def has_ended(self) -> bool:
        """Whether the text is whole, and no token is there to say so."""
        return not self._is_over and not len(self._ends) and bool(self._matcher.is_stopped())

    def _require_health(self) -> None:
        if self._matcher.is_error():
            raise GrammarFailedError(
                f"the grammar of this answer failed after {self._num_taken:,} of its tokens: "
                f"{reason_of(self._matcher.get_error())}",
                "Give a simpler one: fewer alternatives that begin alike, shorter repetitions.",
            )


def reason_of(message: str) -> str:
    """The line of llguidance's ``message`` that says what is wrong."""
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith("<")]
    for line in lines:
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    return lines[0].rstrip(":") if lines else "unknown reason"
