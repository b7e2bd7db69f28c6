"""How much longer a step takes for the drafts in it, learned from the steps themselves.

Beside its rows it is their change that costs: the plugin prepares every node of the graph anew when
a step has another number of rows than the one before it, some 0.2 ms a layer of a model. So a
draft makes its own step wait for that, and the next one without.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

# Of as many steps of a kind the middle one counts: what else the machine does makes some longer.
_STEPS = 5
# Of plain steps, which are many, it is found out anew once in so many.
_SELDOM = 32

# Until it is known, rather too much: with the second row what were products of a matrix and a
# vector are products of matrices, and every row adds a little.
_FIRST_ROW, _EACH_ROW = 0.2, 0.08
# Of a small model; of a large one it is less.
_CHANGE = 0.3

_Kind = tuple[int, int]


@dataclass(frozen=True)
class _Measured:
    """What is known of the steps of so many sequences, in plain steps of them.

    Attributes:
        ratios: of steps with 0, 1, … drafts.
        change: what another number of rows adds to a step.
    """

    ratios: list[float]
    change: float


class DraftCosts:
    """Times of steps that only decode, by their sequences and rows.

    Args:
        most_rows: of a step with drafts.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        # By sequences and rows: of steps behind one of as many rows, and behind one of others.
        self._steady: dict[_Kind, deque[float]] = defaultdict(_recent)
        self._changed: dict[_Kind, deque[float]] = defaultdict(_recent)
        self._changes = _recent()
        self._measured: dict[int, _Measured] = {}
        self._num_noted = 0
        # Rows of the step before; 0 where it did more than decode.
        self._last_rows = 0

    def note(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """Note a step of ``num_sequences`` that computed ``num_rows``, drafts and all."""
        last, self._last_rows = self._last_rows, num_rows
        if not last:
            return
        kind = num_sequences, num_rows
        if last == num_rows:
            self._steady[kind].append(seconds)
        else:
            self._changed[kind].append(seconds)
            if kind in self._steady:
                self._changes.append(seconds - median(self._steady[kind]))
        self._num_noted += 1
        if last != num_rows or num_rows > num_sequences or self._num_noted % _SELDOM == 0:
            self._measured.pop(num_sequences, None)

    def note_other(self) -> None:
        """Note a step that did more than decode: what it is like is not told by its rows."""
        self._last_rows = 0

    def ratio(self, num_sequences: int, num_rows: int) -> float:
        """How long such a step takes, of one without drafts, behind one of as many rows.

        1 where there are no drafts, else more.
        """
        ratios = self._known(num_sequences).ratios
        return ratios[min(max(num_rows - num_sequences, 0), len(ratios) - 1)]

    def change(self, num_sequences: int, num_rows: int) -> float:
        """What the changes of rows take that such a step brings, of one without drafts.

        The way back to steps without drafts counts here, and not when it is gone.
        """
        if num_rows in (num_sequences, self._last_rows):
            return 0.0
        # From one number of drafts to another the way back has been counted already; behind a step
        # that did something else there is only the way back.
        times = 2 if self._last_rows == num_sequences else 1
        return times * self._known(num_sequences).change

    def _known(self, num_sequences: int) -> _Measured:
        if num_sequences not in self._measured:
            self._measured[num_sequences] = self._measure(num_sequences)
        return self._measured[num_sequences]

    def _measure(self, num_sequences: int) -> _Measured:
        most = max(self._most_rows - num_sequences, 1)
        known, change = {0: 1.0, most: _guess(most)}, _CHANGE
        plain = self._steady.get((num_sequences, num_sequences))
        if plain:
            usual = median(plain)
            if self._changes:
                change = max(0.0, median(self._changes) / usual)
            of_these = partial(_of_sequences, num_sequences)
            known |= {n: times / usual - change for n, times in of_these(self._changed)}
            known |= {n: times / usual for n, times in of_these(self._steady)}
        # The first draft costs more than those that follow, but no more than all of them.
        known.setdefault(1, min(_guess(1), min(known[n] for n in known if n)))
        counts = sorted(known)
        # More rows are never quicker, whatever was measured.
        ratios = np.maximum.accumulate([max(1.0, known[count]) for count in counts])
        every: list[float] = np.interp(range(most + 1), counts, ratios).tolist()
        return _Measured(every, change)


def _recent() -> deque[float]:
    return deque(maxlen=_STEPS)


def _of_sequences(num_sequences: int, steps: dict[_Kind, deque[float]]) -> list[tuple[int, float]]:
    """Drafts of the steps of so many sequences, and seconds of the middle one."""
    return [
        (rows - num_sequences, median(seconds))
        for (sequences, rows), seconds in steps.items()
        if sequences == num_sequences
    ]


def _guess(num_drafts: int) -> float:
    return 1.0 + _FIRST_ROW + _EACH_ROW * num_drafts
