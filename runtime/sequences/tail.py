"""The newest tokens of a sequence: taken in by all of its layers at once, written out later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Tail:
    """What layers that have not written out their newest tokens need to do so.

    All layers of a sequence take in the same tokens in the same steps. So a step notes them here,
    once; a layer writes them into its arrays when somebody asks for these.

    Attributes:
        count: tokens that all layers have taken in together, those taken back left out. The newest
            n of them are those that a layer with n unwritten ones has still to write out.
        num_kept: for so many of the newest it can be told what they are.
    """

    def __init__(self) -> None:
        self.count = 0
        self.num_kept = 0
        self._end = 0  # true position behind the newest
        self._scores: list[NDArray[np.float32]] = []

    def goes_on_at(self, position: int) -> bool:
        """Whether a token at the true ``position`` can follow those that are kept."""
        return not self.num_kept or self._end == position

    def push(self, first: int, count: int, scores: NDArray[np.float32] | None) -> None:
        """Take in ``count`` tokens at true positions ``first``, ``first + 1``, …

        Args:
            first: where those before end.
            count: of them.
            scores: ``[count, heads]`` what a gate says of them for the heads of all layers, side by
                side; copied. None if it says nothing, of any that are kept.
        """
        if scores is not None:
            self._scores.append(scores.copy())
        self._end = first + count
        self.num_kept += count
        self.count += count

    def rewind(self, count: int) -> None:
        """Take back the last ``count`` tokens."""
        self.count -= count
        self._end -= count
        self.num_kept = max(0, self.num_kept - count)
        surplus = sum(map(len, self._scores)) - self.num_kept
        while self._scores and surplus > 0:
            last = self._scores.pop()
            if len(last) > surplus:
                self._scores.append(last[:-surplus])
            surplus -= len(last)

    def forget(self) -> None:
        """Keep none of them any longer: all layers have written them out."""
        self.num_kept = 0
        self._scores.clear()

    def positions(self, count: int) -> NDArray[np.int32]:
        """``[count]`` true positions of the newest tokens."""
        return np.arange(self._end - count, self._end, dtype=np.int32)

    def scores(self, count: int, heads: slice) -> NDArray[np.float32] | None:
        """``[count, H]`` of the newest tokens for ``heads``; None where the gate said nothing."""
        parts = self._scores
        if not parts:
            return None
        if len(parts) > 1:
            # Once for all layers; those that ask from other threads make the same of it.
            self._scores = parts = [np.concatenate(parts)]
        return parts[0][len(parts[0]) - count :, heads]
