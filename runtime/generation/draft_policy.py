"""How many tokens are drafted: as many as pay, and none where they do not.

Of each sequence it is counted how often drafts came true, and what they have cost in tokens that it
could have had in that time. A sequence may lose one token in a hundred to them, and a little to
begin with: so a text in which nothing ever comes true takes hardly longer, and one that begins to
repeat itself is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

# In tokens: what a sequence may lose to begin with, what each token adds to that, and the most it
# may ever have won, so that what came true long ago does not pay for what does no more.
_FIRST_CREDIT, _CREDIT_OF_A_TOKEN, _MOST_CREDIT = 0.5, 0.01, 2.0

# Longer matches come true more often: each of these lengths and those up to the next are counted
# together, and believed to come true so often until more is known.
_MATCHES, _CHANCES = (1, 4, 8), (0.4, 0.7, 0.9)
_WEIGHT_OF_BELIEF = 2.0
# How much of what was counted is left after another draft.
_MEMORY = 0.85

# Expected to be so much quicker, or nothing is drafted: what is expected is not certain.
_LEAST_GAIN = 0.03
# To see whether drafts would come true by now.
_NUM_PROBED = 2


class DraftRecord:
    """What became of the drafts of one sequence.

    Attributes:
        credit: tokens that it may still lose to drafts; below 0 nothing is drafted.
    """

    def __init__(self) -> None:
        self.credit = _FIRST_CREDIT
        self._true = [chance * _WEIGHT_OF_BELIEF for chance in _CHANCES]
        self._tried = [_WEIGHT_OF_BELIEF for _ in _CHANCES]

    def chance(self, match: int) -> float:
        """How often a drafted token behind a match of ``match`` tokens comes true, 0 to 1.

        Where all before it did.
        """
        kind = _kind(match)
        return self._true[kind] / self._tried[kind]

    def note(self, match: int, num_drafted: int, num_accepted: int, lost: float) -> None:
        """Note a step.

        Args:
            match: tokens of the match that the draft stood behind.
            num_drafted: tokens drafted; 0 where nothing was.
            num_accepted: those of them that came true.
            lost: tokens that all sequences could have had in the time the drafts took.
        """
        self.credit = min(_MOST_CREDIT, self.credit + _CREDIT_OF_A_TOKEN + num_accepted - lost)
        if not num_drafted:
            return
        kind = _kind(match)
        # Behind one that did not come true none is tried.
        num_tried = num_accepted + (num_accepted < num_drafted)
        self._true[kind] = _MEMORY * self._true[kind] + num_accepted
        self._tried[kind] = _MEMORY * self._tried[kind] + num_tried


def share_out(
    records: SequenceOf[DraftRecord],
    matches: SequenceOf[int],
    limits: SequenceOf[int],
    ratio: Callable[[int], float],
) -> list[int]:
    """How many tokens are drafted for each of the sequences of a step.

    Those likeliest to come true are drafted first, as long as a step with them gives more tokens in
    the same time, and as long as the sequences can afford that none does. Where none would pay, one
    sequence that can afford it tries.

    Args:
        records: of the sequences.
        matches: tokens of the match that each one's draft stands behind; 0 for no draft.
        limits: tokens that may be drafted for each of them.
        ratio: how long a step of so many rows takes, of one without drafts.
    """
    num_sequences = len(records)
    able = [
        place
        for place, record in enumerate(records)
        if matches[place] and limits[place] > 0 and record.credit > 0
    ]
    counts = [0] * num_sequences
    if not able:
        return counts
    candidates: list[tuple[float, int]] = []
    for place in able:
        chance = records[place].chance(matches[place])
        candidates += [(chance**n, place) for n in range(1, limits[place] + 1)]
    candidates.sort(key=lambda one: -one[0])
    affordable = sum(records[place].credit for place in able)
    taken = list(counts)
    expected, best = float(num_sequences), num_sequences * (1.0 + _LEAST_GAIN)
    for number, (chance, place) in enumerate(candidates, start=1):
        longer = ratio(num_sequences + number)
        if num_sequences * (longer - 1.0) > affordable:
            break
        taken[place] += 1
        expected += chance
        pace = expected / longer
        if pace > best:
            best, counts = pace, list(taken)
    if any(counts):
        return counts
    for place in sorted(able, key=lambda place: -records[place].credit):
        probed = min(_NUM_PROBED, limits[place])
        lost = num_sequences * (ratio(num_sequences + probed) - 1.0)
        if records[place].credit >= lost:
            counts[place] = probed
            break
    return counts


def _kind(match: int) -> int:
    return sum(match >= least for least in _MATCHES[1:])
