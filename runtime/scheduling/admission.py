"""Whether the pool takes one more sequence: all that run must be able to grow as far as they may.

A budget bounds what a sequence ever holds, a prompt that is still read included. Sequences are
admitted by that bound, so a pool takes several times more of them than where whole prompts stay,
and none has to be preempted for another.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from ov_kvcrush.runtime.eviction.cut_plan import CutPlanner
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Sequence


class Admission:
    """Admits sequences to a pool.

    Args:
        cache: the pool.
        planner: foresees what a sequence will hold.
    """

    def __init__(self, cache: KVCache, planner: CutPlanner) -> None:
        self._cache = cache
        self._planner = planner
        self._bounds: dict[Sequence, tuple[int, int]] = {}

    def admits(
        self,
        sequence: Sequence,
        running: SequenceOf[Sequence],
        begun: Sequence | None = None,
        kept: Sequence | None = None,
    ) -> bool:
        """Whether ``sequence`` may run beside ``running``, as far as the future goes.

        Where nothing is evicted nothing is bounded, and the pages there are now decide.

        Args:
            sequence: not changed.
            running: likewise.
            begun: whose pages ``sequence`` has begun with.
            kept: parked, and to stay.
        """
        if not running or not self._planner.evicts:
            return True
        self._bounds = {s: self._bounds[s] for s in running if s in self._bounds}
        needed = self._cache.pinned_bytes + sum(map(self._bound, running))
        if kept is not None and not self._is_pinned(kept):
            needed += self._cache.bytes_of(kept)
        if begun is None or begun is not kept:
            needed += self._bound(sequence)
        else:
            needed += self._bound_beside(sequence, begun)
        return needed <= self._cache.max_bytes

    def could_ever(self, sequence: Sequence) -> bool:
        """Whether the prompt of ``sequence`` would fit if nothing else were there but prefixes."""
        stages = self._planner.pages_at_most(sequence)
        if not all(map(self._cache.pool.could_hold, stages)):
            return False
        # What it holds already it shares with a prefix.
        taken = self._cache.pinned_bytes - self._cache.bytes_of(sequence)
        most = max(map(self._cache.bytes_of_pages, stages))
        return most + max(0, taken) <= self._cache.max_bytes

    def _bound(self, sequence: Sequence) -> int:
        """Bytes of the pages that ``sequence`` will hold at most from now on."""
        num_planned = len(sequence.planned_cuts)
        known = self._bounds.get(sequence)
        # It changes with each planned cut that has been made, and not in between.
        if known is None or known[0] != num_planned:
            stages = self._planner.pages_at_most(sequence, decoding=True)
            known = num_planned, max(map(self._cache.bytes_of_pages, stages))
            self._bounds[sequence] = known
        return known[1]

    def _bound_beside(self, sequence: Sequence, begun: Sequence) -> int:
        """The same of the pages that are not those of ``begun``, with which it has begun.

        Until its next cut it shares them, and what that cut leaves may all be on pages of its own.
        """
        stages = self._planner.pages_at_most(sequence, decoding=True)
        first, *later = map(self._cache.bytes_of_pages, stages)
        own = max(0, first - self._cache.bytes_of(begun))
        return max(own + later[0], *later) if later else own

    def _is_pinned(self, kept: Sequence) -> bool:
        return any(s.pinned and s.sequence is kept for s in self._cache.parked)
