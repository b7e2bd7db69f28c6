"""Who runs next, how many tokens of it, what waits, and what is preempted when pages are short."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

from ov_kvcrush.runtime.scheduling.admission import Admission
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.prefixes import Prefixes
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence


@dataclass
class Schedule:
    """One step: what to compute, who lost its cache for it, and who cannot grow any more."""

    chunks: list[Chunk] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    exhausted: Sequence | None = None


class Scheduler:
    """Mixes decode tokens and prefill chunks of several sequences into each step.

    Running sequences go before waiting ones, those that decode before those that read, older before
    younger. A sequence is admitted when the pages up to its next cut are there, all of them, and
    its budget fits beside those of the others; it begins with what is already cached of its prompt,
    and waits, letting those behind it pass, while another one is just reading that.
    When a running one finds no page, one that waits and holds some gives them up, else the youngest
    that is not yet part of the step: it computes its cache again later, so it is slowed down, never
    failed.

    Args:
        cache: gives and takes pages.
        admission: foresees what sequences will need.
        prefixes: what is already cached.
        max_num_batched_tokens: tokens of one step.
        max_num_seqs: sequences that run at once.
    """

    def __init__(
        self,
        cache: KVCache,
        admission: Admission,
        prefixes: Prefixes,
        max_num_batched_tokens: int,
        max_num_seqs: int,
    ) -> None:
        self._cache = cache
        self._admission = admission
        self._prefixes = prefixes
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_num_seqs = max_num_seqs
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        # Who did not fit beside whom: as long as nobody comes, goes or is cut, and no prefix is
        # pinned or closed, that stays so.
        self._refused: tuple[list[Sequence | None], list[int], int] | None = None

    def add(self, sequence: Sequence) -> None:
        """Queue ``sequence`` behind those that came before it."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget ``sequence``, wherever it is; its pages are the caller's."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)

    def join(self, sequence: Sequence) -> None:
        """Let ``sequence``, which has its pages already, run from the next step on."""
        self.running.append(sequence)

    def has_unfinished(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.running or self.waiting)

    def schedule(self) -> Schedule:
        """Choose the next step and give its sequences their pages."""
        step = Schedule()
        left = self._max_num_batched_tokens
        for sequence in self._in_turn():
            count = min(sequence.next_stretch, left)
            if count and sequence in self.running and self._make_room(sequence, count, step):
                step.chunks.append(Chunk.of(sequence, count))
                left -= count
        waiting = list(self.waiting)
        for sequence, following in zip_longest(waiting, waiting[1:]):
            if not left or len(self.running) >= self._max_num_seqs:
                break
            # What was preempted in this step must not take the pages back at once.
            if sequence in step.preempted:
                break
            if self._prefixes.is_coming(sequence, self.running):
                continue
            if not self._admit(sequence, following):
                break
            self.waiting.remove(sequence)
            self.running.append(sequence)
            count = min(sequence.next_stretch, left)
            step.chunks.append(Chunk.of(sequence, count))
            left -= count
        if self.waiting and not (self.running or step.exhausted):
            self._force_first(step)
        return step

    def _force_first(self, step: Schedule) -> None:
        """Nothing runs, and yet the first one finds no room: those behind it give up theirs."""
        holding = [s for s in list(self.waiting)[1:] if s.num_cached]
        if holding:
            self.preempt(holding[-1])
            step.preempted.append(holding[-1])
        elif self.waiting[0] not in step.preempted:
            step.exhausted = self.waiting[0]

    def preempt(self, victim: Sequence) -> None:
        """Let ``victim`` give up its cache and wait at the front, to compute it again."""
        if victim in self.running:
            self.running.remove(victim)
            self.waiting.appendleft(victim)
        self._cache.release(victim)

    def _admit(self, sequence: Sequence, following: Sequence | None) -> bool:
        """Give it its first pages; False where there are none, and it holds what it held.

        What ``following``, the next to be admitted, will begin with is to stay beside it.
        """
        cuts = [len(one.planned_cuts) for one in self.running]
        asked = [sequence, following, *self.running], cuts, self._cache.pinned_bytes
        if asked == self._refused:
            return False
        self._refused = None
        begun = self._prefixes.begin(sequence, self.running)
        kept = following and self._prefixes.worth_keeping_for(following)
        if not self._admission.admits(sequence, self.running, begun, kept):
            self._refused = asked
        elif self._cache.extend(sequence, sequence.next_stretch):
            return True
        if begun is not None:
            self._prefixes.take_back(sequence)
        return False

    def _in_turn(self) -> Iterator[Sequence]:
        yield from [s for s in self.running if s.num_uncached == 1]
        yield from [s for s in self.running if s.num_uncached > 1]

    def _make_room(self, sequence: Sequence, count: int, step: Schedule) -> bool:
        while not self._cache.extend(sequence, count):
            scheduled = {id(chunk.sequence) for chunk in step.chunks}
            others = [s for s in self.running if s is not sequence and id(s) not in scheduled]
            holding = [s for s in self.waiting if s.num_cached]
            if not (holding or others):
                if not step.chunks:
                    step.exhausted = sequence
                return False
            victim = holding[-1] if holding else others[-1]
            self.preempt(victim)
            step.preempted.append(victim)
        return True
