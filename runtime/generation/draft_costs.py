"""How much longer a step takes for the drafts in it, learned from the steps themselves."""

from __future__ import annotations

from collections import deque
from statistics import median

import numpy as np

# Of as many steps of a kind the middle one counts: what else the machine does makes some longer.
_STEPS = 5

# Until it is known, rather too much: with the second row what were products of a matrix and a
# vector are products of matrices, and every row adds a little.
_FIRST_ROW, _EACH_ROW = 0.2, 0.08


class DraftCosts:
    """Times of steps that only decode, by their sequences and rows.

    Args:
        most_rows: of a step with drafts.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._seconds: dict[tuple[int, int], deque[float]] = {}
        self._ratios: dict[int, list[float]] = {}
        self._num_noted = 0

    def note(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """Note a step of ``num_sequences`` that computed ``num_rows``, drafts and all."""
        kind = num_sequences, num_rows
        if kind not in self._seconds:
            self._seconds[kind] = deque(maxlen=_STEPS)
            if num_rows == num_sequences:
                # It has waited for what the plugin prepares: what is usual would look slow. A first
                # draft has really cost that.
                return
        self._seconds[kind].append(seconds)
        self._num_noted += 1
        if num_rows > num_sequences or self._num_noted % _STEPS == 0:
            self._ratios.pop(num_sequences, None)

    def ratio(self, num_sequences: int, num_rows: int) -> float:
        """How long such a step takes, of one without drafts: 1 where there are none, else more."""
        if num_sequences not in self._ratios:
            self._ratios[num_sequences] = self._measured(num_sequences)
        ratios = self._ratios[num_sequences]
        return ratios[min(max(num_rows - num_sequences, 0), len(ratios) - 1)]

    def _measured(self, num_sequences: int) -> list[float]:
        """The ratios of steps with 0, 1, … drafts."""
        most = max(self._most_rows - num_sequences, 1)
        known = {0: 1.0, most: _guess(most)}
        plain = self._seconds.get((num_sequences, num_sequences))
        if plain:
            usual = median(plain)
            known |= {
                rows - num_sequences: median(seconds) / usual
                for (sequences, rows), seconds in self._seconds.items()
                if sequences == num_sequences and seconds
            }
        # The first draft costs more than those that follow, but no more than all of them.
        known.setdefault(1, min(_guess(1), min(known[n] for n in known if n)))
        counts = sorted(known)
        # More rows are never quicker, whatever was measured.
        ratios = np.maximum.accumulate([max(1.0, known[count]) for count in counts])
        every: list[float] = np.interp(range(most + 1), counts, ratios).tolist()
        return every


def _guess(num_drafts: int) -> float:
    return 1.0 + _FIRST_ROW + _EACH_ROW * num_drafts
