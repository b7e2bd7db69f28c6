"""How much of what a sequence has cached another may begin with: now, and once it has read on.

What was never cut can be shared up to any full page. A cut cache is what all of the text before the
cut left of it: it serves sequences that begin with that and would have been cut in the same places,
with what was read behind the cut up to any full page.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np

from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence


def usable(stored: Sequence, new: Sequence, window_size: int) -> int:
    """Tokens of ``stored`` that ``new`` may begin with; 0 for none.

    Args:
        stored: holds its cache.
        new: holds nothing, and its cuts are planned.
        window_size: queries that a cut looks through. They are not kept with the pages, so they
            have to come behind what is shared.
    """
    common = _common(stored, new)
    evicting, num_made = _evicting(new.planned_cuts), len(stored.cuts)
    if not common or stored.cuts != evicting[:num_made]:
        return 0
    most = _before(evicting[num_made:], min(common, stored.num_cached), window_size)
    if (num_made or new.accumulates) and most == stored.num_cached:
        return most
    if new.accumulates:
        return 0
    length = whole_pages(stored, most)
    return length if length > 0 and stored.can_rewind_to(length) else 0


def coming(reading: Sequence, new: Sequence, window_size: int) -> int:
    """Tokens that ``new`` may begin with once ``reading`` has read on; 0 for none.

    Args:
        reading: has more of its prompt to read.
        new: as in :func:`usable`.
        window_size: likewise.
    """
    common = _common(reading, new)
    evicting, num_made = _evicting(new.planned_cuts), len(reading.cuts)
    if not common or reading.cuts != evicting[:num_made]:
        return 0
    planned = _evicting(reading.planned_cuts)
    most = 0
    for number, cut in enumerate(planned, start=num_made):
        if evicting[number : number + 1] != [cut] or not cut.reads_on:
            break
        if cut.num_cached > _before(evicting[number + 1 :], common, window_size):
            break
        most = cut.num_cached
    if most or new.accumulates:
        return most
    # It goes on without a cut that both make: what lies before its next one can be shared.
    ends = planned[0].num_cached if planned else common
    return whole_pages(reading, min(ends, _before(evicting[num_made:], common, window_size)))


def whole_pages(stored: Sequence, most: int) -> int:
    """The longest beginning of at most ``most`` tokens at which all pages are full; 0 for none.

    A page holds what one reading of it whole would leave only if it was full. Behind a cut the
    caches of layers end in different places of a page, where their budgets are not whole pages;
    what is read twice is scored only at the next cut, and sums of attention cannot be taken back.
    """
    floor = 0
    if stored.cuts:
        last = stored.cuts[-1]
        if not last.reads_on or stored.thorough or stored.accumulates:
            return 0
        floor = last.num_cached
    evicted = np.unique((stored.num_cached - stored.ledger.lengths) % PAGE_SIZE)
    if len(evicted) > 1:
        return 0
    length = most - (most - int(evicted[0])) % PAGE_SIZE
    return length if length >= floor else 0


def common_prefix(first: SequenceOf[int], second: SequenceOf[int]) -> int:
    """How many tokens both begin with."""
    count = min(len(first), len(second))
    if first[:count] == second[:count]:
        return count
    a, b = np.array(first[:count]), np.array(second[:count])
    return int(np.argmax(a != b))


def _common(stored: Sequence, new: Sequence) -> int:
    """Tokens that both begin with, where ``new`` may know of it; one of it is computed anyway."""
    if stored.owner != new.owner or stored.tokens[:PAGE_SIZE] != new.tokens[:PAGE_SIZE]:
        return 0  # the usual case, and fast
    if stored.thorough != new.thorough:
        return 0  # what was read once has other scores than what was read twice
    return common_prefix(stored.tokens, new.tokens[:-1])


def _evicting(cuts: SequenceOf[Cut]) -> list[Cut]:
    return [cut for cut in cuts if cut.num_cached > cut.budget]


def _before(cuts: SequenceOf[Cut], common: int, window_size: int) -> int:
    """Tokens of the ``common`` ones that may be cached when ``cuts`` are still to be made."""
    return min(common, cuts[0].num_cached - window_size) if cuts else common
