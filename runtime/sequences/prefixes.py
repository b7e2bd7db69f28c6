"""Beginnings that later prompts need not read again: parked sequences they go on from.

A sequence that begins like a parked one, a finished prompt or another chat with the same system
prompt, takes over its pages, shared until one of them has to change. What was never cut can be
shared up to any full page. A cut cache is what its whole text left of it: it serves sequences that
begin with all of it and would have been cut in the same places.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np

from ov_kvcrush.errors import PromptError
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.sequences.session import Session

# What is kept unasked: so many prefixes, and such a part of the pool. Where pages are short they go
# before anything else does.
_MAX_KEPT = 32
_MAX_POOL_SHARE = 0.5


class Prefixes:
    """Keeps prefixes and begins sequences with them.

    Args:
        cache: where they are parked.
        window_size: queries that a cut looks through; they must be computed before it.
        is_on: whether anything is kept and found unasked.

    Attributes:
        num_hits: sequences that began with a prefix.
    """

    def __init__(self, cache: KVCache, window_size: int, is_on: bool) -> None:
        self._cache = cache
        self._window_size = window_size
        self._is_on = is_on
        self._sessions: list[Session] = []
        self.num_hits = 0

    def keep_uncut(self, sequence: Sequence) -> None:
        """Keep what ``sequence`` has read if nothing has been evicted yet, to share its pages."""
        if not sequence.cuts:
            self._keep(sequence)

    def keep_cut(self, sequence: Sequence) -> None:
        """Keep what a cut has just left of a prompt that goes on, for those that begin alike."""
        last = sequence.cuts[-1] if sequence.cuts else None
        if last is not None and last.reads_on and last.num_cached == sequence.num_cached:
            self._keep(sequence)

    def begin(self, sequence: Sequence) -> bool:
        """Let ``sequence``, which holds nothing, begin with the longest prefix kept for it.

        Returns:
            Whether there is one; then ``sequence.num_reused`` tells its length.
        """
        if not self._is_on or sequence.num_cached:
            return False
        lengths = {
            session: self._usable(session.sequence, sequence)
            for session in self._cache.parked
            if session.sequence is not None and session.owner == sequence.owner
        }
        best = max(lengths, key=lengths.__getitem__, default=None)
        if best is None or not lengths[best]:
            return False
        self.begin_with(best, sequence, lengths[best])
        return True

    def begin_with(self, session: Session, sequence: Sequence, length: int | None = None) -> None:
        """Let ``sequence``, which holds nothing, begin with what ``session`` has parked.

        Args:
            session: parked.
            sequence: its planned cuts up to there count as made.
            length: tokens of it; None for all, which ``sequence`` must begin with.

        Raises:
            PromptError: it does not begin with them, or nothing follows them.
        """
        stored = session.sequence
        if stored is None:
            raise PromptError("the cached prefix is closed", "Make it again with cache_prefix.")
        if length is None:
            length = stored.num_cached
            if common_prefix(stored.tokens, sequence.tokens[:-1]) < length:
                raise PromptError(
                    "the prompt does not begin with the cached prefix, or nothing follows it",
                    "Give the text of the prefix and then a question.",
                )
        self._cache.touch(session)
        coming = [cut for cut in sequence.planned_cuts if cut.num_cached > length]
        self._cache.fork(stored, sequence)
        # With the fork came the cuts before: from here on they are made, and no longer planned.
        sequence.planned_cuts = coming
        with self._cache.released_on_failure(sequence):
            sequence.rewind_cache_to(length)
            self._cache.trim(sequence)
        sequence.num_reused = length
        self.num_hits += 1

    def clear(self) -> None:
        """Free what is kept unasked."""
        for session in self._kept():
            self._cache.drop(session)

    def _usable(self, stored: Sequence, new: Sequence) -> int:
        """Tokens of ``stored`` that ``new`` may begin with; 0 for none."""
        if stored.tokens[:PAGE_SIZE] != new.tokens[:PAGE_SIZE]:
            return 0  # the usual case, and fast
        if stored.thorough != new.thorough:
            return 0  # what was read once has other scores than what was read twice
        common = common_prefix(stored.tokens[: stored.num_cached], new.tokens[:-1])
        evicting = [cut for cut in new.planned_cuts if cut.num_cached > cut.budget]
        num_made = len(stored.cuts)
        if stored.cuts != evicting[:num_made]:
            return 0
        # Queries are not kept with the pages: those a cut looks through are yet to come.
        coming = evicting[num_made:]
        most = coming[0].num_cached - self._window_size if coming else common
        if num_made or new.accumulates:
            return common if common == stored.num_cached <= most else 0
        # A page holds what one reading of it whole would leave only if it was full.
        length = min(common, most) // PAGE_SIZE * PAGE_SIZE
        return length if length > 0 and stored.can_rewind_to(length) else 0

    def _keep(self, sequence: Sequence) -> None:
        if not self._is_on or sequence.num_cached < PAGE_SIZE:
            return
        tokens = sequence.tokens[: sequence.num_cached]
        for session in self._kept():
            kept = session.sequence
            if kept is None or kept.cuts != sequence.cuts or session.owner != sequence.owner:
                continue
            if kept.thorough != sequence.thorough:
                continue
            if kept.tokens == tokens:
                self._cache.touch(session)
                return
            if not kept.cuts and kept.tokens == tokens[: kept.num_cached]:
                self._cache.drop(session)  # the longer one serves whom it served
        copy = sequence.twin(tokens)
        self._cache.fork(sequence, copy)
        session = Session(is_prefix=True, owner=sequence.owner)
        self._cache.park(session, copy)
        self._sessions.append(session)
        self._limit()

    def _limit(self) -> None:
        kept = self._kept()
        sizes = [self._cache.bytes_of(s.sequence) for s in kept if s.sequence is not None]
        most = self._cache.max_bytes * _MAX_POOL_SHARE
        while kept and (len(kept) > _MAX_KEPT or sum(sizes) > most):
            self._cache.drop(kept.pop(0))
            sizes.pop(0)

    def _kept(self) -> list[Session]:
        kept = [s for s in self._cache.parked if s.is_prefix and not s.pinned]
        self._sessions = [s for s in self._sessions if s in kept]  # others have lost their cache
        return kept


def common_prefix(first: SequenceOf[int], second: SequenceOf[int]) -> int:
    """How many tokens both begin with."""
    count = min(len(first), len(second))
    if first[:count] == second[:count]:
        return count
    a, b = np.array(first[:count]), np.array(second[:count])
    return int(np.argmax(a != b))
