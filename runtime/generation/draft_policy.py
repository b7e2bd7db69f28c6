"""How many tokens are drafted: as many as pay, and none where they do not.

Of each sequence it is counted how often guesses come true, those of which nothing is drafted too:
that costs nothing, so that nothing has to be tried out. And it is counted what drafts have cost, in
tokens that it could have had in that time. It may lose one token in a hundred to them, and a little
more to begin with and where guesses come true: so a text in which drafts fail takes hardly longer,
whatever was expected.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

# In tokens: what a sequence may lose to begin with, what each token adds to that, and each guess
# that came true without a draft, and the most it may ever have won, so that what came true long ago
# does not pay for what does no more.
_FIRST_CREDIT, _CREDIT_OF_A_TOKEN, _CREDIT_OF_A_GUESS, _MOST_CREDIT = 0.3, 0.01, 0.1, 2.0

# What follows longer matches comes true more often: each of these lengths and those up to the next
# are counted together, and believed to come true so often until more is known.
_MATCHES, _CHANCES = (1, 4, 8), (0.3, 0.6, 0.9)
_WEIGHT_OF_BELIEF = 2.0
# How much of what was counted is left after another token.
_MEMORY = 0.95

# Expected to be so much quicker, or nothing is drafted: what is expected is not certain.
_LEAST_GAIN = 0.1
# What comes true more seldom is not even weighed.
_LEAST_CHANCE = 0.02


class DraftRecord:
    """What became of the guesses about one sequence.

    Attributes:
        credit: tokens that it may still lose to drafts; below 0 nothing is drafted.
    """

    def __init__(self) -> None:
        self.credit = _FIRST_CREDIT
        self._true = [chance * _WEIGHT_OF_BELIEF for chance in _CHANCES]
        self._tried = [_WEIGHT_OF_BELIEF for _ in _CHANCES]

    def chance(self, match: int) -> float:
        """How often what is guessed behind a match of ``match`` tokens comes true, 0 to 1."""
        kind = _kind(match)
        return self._true[kind] / self._tried[kind]

    def note(self, match: int, num_drafted: int, num_accepted: int, lost: float) -> None:
        """Note a step with drafts.

        Args:
            match: tokens of the match that the draft stood behind.
            num_drafted: tokens drafted.
            num_accepted: those of them that came true.
            lost: tokens that all sequences could have had in the time the drafts took.
        """
        self._earn(_CREDIT_OF_A_TOKEN + num_accepted - lost)
        for number in range(num_accepted):
            self._count(match + number, True)
        # Behind one that did not come true none is tried.
        if num_accepted < num_drafted:
            self._count(match + num_accepted, False)

    def note_guess(self, match: int, came_true: bool) -> None:
        """Note a step without drafts, in which what follows a match was guessed.

        Args:
            match: tokens of the match; 0 where nothing was guessed.
            came_true: whether the next token was the guess.
        """
        self._earn(_CREDIT_OF_A_TOKEN + _CREDIT_OF_A_GUESS * came_true)
        if match:
            self._count(match, came_true)

    def _earn(self, credit: float) -> None:
        self.credit = min(_MOST_CREDIT, self.credit + credit)

    def _count(self, match: int, came_true: bool) -> None:
        kind = _kind(match)
        self._true[kind] = _MEMORY * self._true[kind] + came_true
        self._tried[kind] = _MEMORY * self._tried[kind] + 1.0


def share_out(
    records: SequenceOf[DraftRecord],
    matches: SequenceOf[int],
    limits: SequenceOf[int],
    ratio: Callable[[int], float],
    change: Callable[[int], float] = lambda num_rows: 0.0,
) -> list[int]:
    """How many tokens are drafted for each of the sequences of a step.

    Those likeliest to come true are drafted first, as long as a step with them gives more tokens in
    the same time, and as long as the sequences can afford what is lost if none does, as likely as
    that is.

    Args:
        records: of the sequences.
        matches: tokens of the match that each one's draft stands behind; 0 for no draft.
        limits: tokens that may be drafted for each of them.
        ratio: how long a step of so many rows takes, of one without drafts.
        change: what is added to it once, if steps have had another number of rows so far. Steps
            with drafts follow one another until none comes true, and share it.
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
        chance = 1.0
        for number in range(limits[place]):
            # What has come true makes the match so much longer.
            chance *= records[place].chance(matches[place] + number)
            if chance < _LEAST_CHANCE:
                break
            candidates.append((chance, place))
    expected, best = float(num_sequences), num_sequences * (1.0 + _LEAST_GAIN)
    # Mostly it is seen at once: they would not pay if all of them cost as little as the first.
    if expected + sum(chance for chance, _ in candidates) <= best * ratio(num_sequences + 1):
        return counts
    candidates.sort(key=lambda one: -one[0])
    affordable = sum(records[place].credit for place in able)
    taken = list(counts)
    none_true = 1.0
    for number, (chance, place) in enumerate(candidates, start=1):
        if not taken[place]:
            none_true *= 1.0 - chance
        taken[place] += 1
        expected += chance
        longer, once = ratio(num_sequences + number), change(num_sequences + number)
        pace = expected / (longer + once * none_true)
        lost = num_sequences * (longer + once - 1.0)
        if pace > best and lost * none_true <= affordable:
            best, counts = pace, list(taken)
    return counts


def _kind(match: int) -> int:
    return max(0, bisect_right(_MATCHES, match) - 1)
