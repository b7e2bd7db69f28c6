"""Beginnings that later prompts need not read again: parked sequences they go on from.

A sequence that begins like a parked one, a finished prompt or another chat with the same system
prompt, or like one that runs, takes over its pages, shared until one of them has to change.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from ov_kvcrush.errors import PromptError
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.sequences.shared_beginning import (
    coming,
    common_prefix,
    usable,
    whole_pages,
)

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

    def keep_prompt(self, sequence: Sequence) -> None:
        """Keep all of a prompt before its last cut, which those that ask something else make anew.

        What was read since the cut before: a document's end, where others begin with the same one.
        """
        num_cached = sequence.num_cached
        if not sequence.cuts or whole_pages(sequence, num_cached) > sequence.cuts[-1].num_cached:
            self._keep(sequence)

    def keep_cut(self, sequence: Sequence) -> None:
        """Keep what a cut has just left of a prompt that goes on, for those that begin alike."""
        last = sequence.cuts[-1] if sequence.cuts else None
        if last is not None and last.reads_on and last.num_cached == sequence.num_cached:
            self._keep(sequence)

    def begin(self, sequence: Sequence, running: SequenceOf[Sequence] = ()) -> Sequence | None:
        """Let ``sequence``, which holds nothing, begin with the longest prefix there is for it.

        Args:
            sequence: its planned cuts up to there count as made.
            running: others, whose pages it may share too.

        Returns:
            What it shares the pages of, if there is anything; then ``sequence.num_reused`` tells
            how many tokens.
        """
        if not self._looks_for(sequence):
            return None
        stored, length = self._longest(sequence, running)
        if stored is not None:
            self._begin_with(stored, sequence, length)
        return stored

    def take_back(self, sequence: Sequence) -> None:
        """Let ``sequence``, which has just begun with a prefix, hold nothing again."""
        self._cache.release(sequence)
        sequence.num_reused = 0
        self.num_hits -= 1

    def worth_keeping_for(self, sequence: Sequence) -> Sequence | None:
        """What is parked that ``sequence`` will begin with, if that saves it more than it takes.

        It saves the tokens that are not read again, and takes those that it holds.
        """
        if not self._looks_for(sequence):
            return None
        stored, length = self._longest(sequence, ())
        return stored if stored is not None and length >= stored.mean_length else None

    def is_coming(self, sequence: Sequence, running: SequenceOf[Sequence]) -> bool:
        """Whether one of ``running`` is just reading what ``sequence``, too, begins with.

        Then ``sequence`` does well to wait for it: if it began now, it would read the same.
        """
        if not self._looks_for(sequence):
            return False
        window = self._window_size
        ahead = {one: coming(one, sequence, window) for one in running if one.num_uncached > 1}
        if not any(ahead.values()):
            return False
        _, length = self._longest(sequence, running)
        # Where there is more already than the one that reads has got to, it is not waited for.
        return any(length <= one.num_cached and length < most for one, most in ahead.items())

    def begin_with(self, session: Session, sequence: Sequence) -> None:
        """Let ``sequence``, which holds nothing, begin with all that ``session`` has parked.

        Args:
            session: parked.
            sequence: its planned cuts up to there count as made.

        Raises:
            PromptError: it does not begin with them, or nothing follows them.
        """
        stored = session.sequence
        if stored is None:
            raise PromptError("the cached prefix is closed", "Make it again with cache_prefix.")
        if common_prefix(stored.tokens, sequence.tokens[:-1]) < stored.num_cached:
            raise PromptError(
                "the prompt does not begin with the cached prefix, or nothing follows it",
                "Give the text of the prefix and then a question.",
            )
        self._begin_with(stored, sequence, stored.num_cached)

    def clear(self) -> None:
        """Free what is kept unasked."""
        for session in self._kept():
            self._cache.drop(session)

    def _looks_for(self, sequence: Sequence) -> bool:
        """Whether ``sequence`` may begin with what others have read."""
        return self._is_on and not sequence.num_cached

    def _longest(
        self, sequence: Sequence, running: SequenceOf[Sequence]
    ) -> tuple[Sequence | None, int]:
        """What ``sequence`` is best begun with, and how many tokens of it; None and 0 of none."""
        parked = [one.sequence for one in self._cache.parked if one.sequence is not None]
        best, most = None, 0
        for stored in [*parked, *running]:
            length = usable(stored, sequence, self._window_size)
            if length > most:
                best, most = stored, length
        return best, most

    def _begin_with(self, stored: Sequence, sequence: Sequence, length: int) -> None:
        for session in self._cache.parked:
            if session.sequence is stored:
                self._cache.touch(session)
        planned = [cut for cut in sequence.planned_cuts if cut.num_cached > length]
        self._cache.fork(stored, sequence)
        # With the fork came the cuts before: from here on they are made, and no longer planned.
        sequence.planned_cuts = planned
        with self._cache.released_on_failure(sequence):
            sequence.rewind_cache_to(length)
            self._cache.trim(sequence)
        sequence.num_reused = length
        self.num_hits += 1

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
