"""How much longer a step takes for the drafts in it, learned from the steps themselves."""

from __future__ import annotations

from collections import deque
from statistics import median

import numpy as np

# Of as many steps of a kind the middle one counts: what else the machine does makes some longer.
_STEPS = 5

# Until it is known: with the second row what were products of a matrix and a vector are products of
# matrices, and every row adds a little.
_FIRST_ROW, _EACH_ROW = 0.1, 0.04


class DraftCosts:
    """Times of steps that only decode, by their sequences and rows.

    Args:
        most_rows: of a step with drafts.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._seconds: dict[tuple[int, int], deque[float]] = {}

    def note(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """Note a step of ``num_sequences`` that computed ``num_rows``, drafts and all."""
        kind = num_sequences, num_rows
        if kind in self._seconds:
            self._seconds[kind].append(seconds)
        else:
            # The first of a kind has to wait for what the plugin prepares for it.
            self._seconds[kind] = deque(maxlen=_STEPS)

    def ratio(self, num_sequences: int, num_rows: int) -> float:
        """How long such a step takes, of one without drafts: 1 where there are none, else more."""
        if num_rows <= num_sequences:
            return 1.0
        most = max(self._most_rows, num_rows)
        known = {num_sequences: 1.0, most: _guess(most - num_sequences)}
        plain = self._seconds.get((num_sequences, num_sequences))
        if plain:
            usual = median(plain)
            known |= {
                rows: median(seconds) / usual
                for (sequences, rows), seconds in self._seconds.items()
                if sequences == num_sequences and seconds
            }
        if num_sequences + 1 not in known:
            known[num_sequences + 1] = min(_guess(1), *_beyond(known, num_sequences + 1))
        rows = sorted(known)
        # More rows are never quicker, whatever was measured.
        ratios = np.maximum.accumulate([max(1.0, known[row]) for row in rows])
        return float(np.interp(num_rows, rows, ratios))


def _guess(num_drafts: int) -> float:
    return 1.0 + _FIRST_ROW + _EACH_ROW * num_drafts


def _beyond(known: dict[int, float], rows: int) -> list[float]:
    return [ratio for row, ratio in known.items() if row > rows]
