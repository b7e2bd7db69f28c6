"""One sequence: its tokens, the cache of each layer, its cuts, and the chunks it is computed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.sequences.layer_cache import NOT_AGAIN, LayerCache
from ov_kvcrush.runtime.sequences.ledger import Ledger
from ov_kvcrush.runtime.sequences.query_window import QueryWindow

# Tokens that layers may have to write out later: what is kept for them takes memory.
_MOST_UNSETTLED = 128


@dataclass(frozen=True)
class Cut:
    """A cut when ``num_cached`` tokens of the sequence have been read, to ``budget`` tokens.

    Attributes:
        num_cached: of the sequence, when it is due.
        budget: the mean of the layers.
        reads_on: the prompt goes on behind it, so that what will be asked may not be known yet.
        thorough: what has come since the one before is read again first. It leaves everything where
            the budget holds it.
    """

    num_cached: int
    budget: int
    reads_on: bool = False
    thorough: bool = False


class Sequence:
    """Tokens and cache of one sequence.

    Attributes:
        tokens: prompt and generated token ids.
        num_cached: how many of ``tokens`` the caches have read.
        layers: the cache of each layer.
        ledger: how much all of them hold.
        window: queries of the last cached tokens, or None where nothing is ever evicted.
        rewind_floor: the cache can be taken back to this many tokens and no further: what lies
            before has been chosen from, or has slid out of a window.
        cuts: those so far.
        planned_cuts: those that are to come, in order.
        passed_cuts: thorough ones that had nothing to cut; they count where it is read anew.
        thorough: its prompt, or what it begins with, is read twice (see ``Session``).
        num_reused: how many of ``tokens`` it did not have to read, for others had.
        owner: whose it is: it begins with what was cached for the same owner only.
        has_gate: whether the gate has a say about its tokens.
    """

    def __init__(
        self,
        tokens: list[int],
        layers: tuple[LayerGeometry, ...],
        window_size: int | None,
        accumulates: bool = False,
        owner: str = "",
        has_gate: bool = False,
    ) -> None:
        """``accumulates``: the attention of all queries is summed up, layer by layer."""
        self.tokens = tokens
        self._geometry = layers
        self.num_cached = 0
        self.ledger = Ledger(len(layers))
        self._heads = np.array([layer.num_kv_heads for layer in layers], np.int64)
        ends = [0, *self._heads.cumsum().tolist()]
        self.layers = [
            LayerCache(
                self.ledger,
                number,
                slice(ends[number], ends[number + 1]),
                layer.num_query_heads if accumulates else 0,
                has_gate,
            )
            for number, layer in enumerate(layers)
        ]
        self.window = None if window_size is None else QueryWindow(layers, window_size)
        self.accumulates = accumulates
        self.rewind_floor = 0
        self.cuts: list[Cut] = []
        self.planned_cuts: list[Cut] = []
        self.passed_cuts: list[Cut] = []
        self.thorough = False
        self.num_reused = 0
        self.owner = owner
        self.has_gate = has_gate

    @property
    def num_uncached(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.tokens) - self.num_cached

    @property
    def is_cut_due(self) -> bool:
        """Whether it stands at the next planned cut."""
        return bool(self.planned_cuts) and self.planned_cuts[0].num_cached == self.num_cached

    @property
    def next_stretch(self) -> int:
        """Uncached tokens up to the next planned cut, which a chunk must not run past."""
        if not self.planned_cuts:
            return self.num_uncached
        return min(self.num_uncached, self.planned_cuts[0].num_cached - self.num_cached)

    @property
    def lengths(self) -> list[int]:
        """Tokens each layer holds."""
        lengths: list[int] = self.ledger.lengths.tolist()
        return lengths

    @property
    def mean_length(self) -> float:
        """Tokens a KV head holds, on average."""
        return int(self.ledger.lengths @ self._heads) / int(self._heads.sum())

    @property
    def num_kept(self) -> int:
        """The same, as a whole number."""
        return round(self.mean_length)

    @property
    def page_tables(self) -> list[list[int]]:
        """Page table of each layer."""
        return [layer.pages for layer in self.layers]

    @property
    def is_scored(self) -> bool:
        """Whether the gate, or a second reading, has a score for every token that is cached."""
        return all(layer.gate is not None for layer in self.layers)

    def append(self, count: int, scores: NDArray[np.float32] | None = None) -> None:
        """Note that the next ``count`` tokens are in the cache now.

        ``scores``: ``[count, heads]`` what the gate says of them, for the KV heads of all layers
        side by side; None without one. It has no say where a second reading has.
        """
        tail = self.ledger.tail
        if self.thorough:
            scores = np.full((count, self._heads.sum()), NOT_AGAIN)
        elif not self.has_gate:
            scores = None
        # Layers whose scores end here have to know it, whatever is taken back later.
        ends_scores = self.has_gate and scores is None
        if ends_scores or not tail.goes_on_at(self.num_cached):
            self.settle()
        tail.push(self.num_cached, count, scores)
        self.num_cached += count
        if ends_scores or tail.num_kept >= _MOST_UNSETTLED:
            self.settle()

    def settle(self) -> None:
        """Let every layer write out its newest tokens."""
        for layer in self.layers:
            layer.settle()
        self.ledger.tail.forget()

    def become_thorough(self) -> None:
        """Be scored by second readings from the first token on; nothing has been read yet."""
        self.thorough = True
        for layer in self.layers:
            layer.keep_gate()

    def pass_cut(self) -> None:
        """Go on behind the planned cut at which it stands, which has nothing to cut."""
        cut = self.planned_cuts.pop(0)
        if cut.thorough:
            self.passed_cuts.append(cut)

    def note_cut(self, cut: Cut, recent_size: int) -> None:
        """Count ``cut`` as made: all but the last ``recent_size`` tokens have been chosen from."""
        if self.is_cut_due:
            del self.planned_cuts[0]
        self.cuts.append(cut)
        self.rewind_floor = max(self.rewind_floor, self.num_cached - recent_size)

    def can_rewind_to(self, num_cached: int) -> bool:
        """Whether the cache can be taken back to its first ``num_cached`` tokens."""
        return self.rewind_floor <= num_cached <= self.num_cached

    def rewind_to(self, num_cached: int) -> None:
        """Take cache and tokens back to the first ``num_cached`` tokens (pages stay on the tables).

        Raises:
            RuntimeError: ask ``can_rewind_to`` first.
        """
        self.rewind_cache_to(num_cached)
        del self.tokens[num_cached:]

    def rewind_cache_to(self, num_cached: int) -> None:
        """Take the cache alone back: tokens behind the first ``num_cached`` are to be read again.

        Raises:
            RuntimeError: ask ``can_rewind_to`` first.
        """
        if not self.can_rewind_to(num_cached):
            raise RuntimeError(f"cannot rewind from {self.num_cached} to {num_cached} tokens")
        count = self.num_cached - num_cached
        self.ledger.tail.rewind(count)
        self.ledger.note_change()
        for layer in self.layers:
            layer.follow_rewind()
        if self.window is not None:
            self.window.rewind(count)
        self.num_cached = num_cached
        self.passed_cuts = [cut for cut in self.passed_cuts if cut.num_cached <= num_cached]

    def bare_twin(self, tokens: list[int]) -> Sequence:
        """The same without a policy, for what is only read to see what it looks at."""
        return Sequence(tokens, self._geometry, None, owner=self.owner)

    def twin(self, tokens: list[int]) -> Sequence:
        """A sequence of ``tokens`` of the same kind that holds nothing."""
        window = None if self.window is None else self.window.size
        twin = Sequence(tokens, self._geometry, window, self.accumulates, self.owner, self.has_gate)
        if self.thorough:
            twin.become_thorough()
        return twin

    def clone_into(self, other: Sequence) -> None:
        """Make ``other`` hold what this one holds, on the pages already on its tables."""
        if self.thorough:
            other.become_thorough()
        for mine, its in zip(self.layers, other.layers, strict=True):
            attention = mine.attention if other.accumulates else None
            its.hold(mine.positions, mine.slots, attention, mine.gate)
        if self.window is not None and other.window is not None:
            other.window.copy_from(self.window)
        other.num_cached = self.num_cached
        other.rewind_floor = self.rewind_floor
        other.cuts = list(self.cuts)
        other.passed_cuts = list(self.passed_cuts)

    def forget_cache(self) -> None:
        """Have read nothing any more, and plan to make the same cuts again.

        The pages must have been taken off the layers' tables.
        """
        if self.window is not None:
            self.window.rewind(self.num_cached)
        self.ledger.tail.forget()
        self.num_cached = 0
        self.rewind_floor = 0
        made = sorted([*self.cuts, *self.passed_cuts], key=lambda cut: cut.num_cached)
        self.planned_cuts = made + self.planned_cuts
        self.cuts, self.passed_cuts = [], []


@dataclass(frozen=True)
class Chunk:
    """What a step computes of a sequence, decided once: the sequence itself changes meanwhile.

    Attributes:
        sequence: whose tokens.
        first: position of the first of them.
        count: how many.
        ends: whether the sequence's last token is among them, so that a new one follows.
        num_query_rows: of how many of the last of them the queries are wanted.
        drafts: guesses of what follows the sequence's last token; they are the last of ``count``,
            and the sequence has them only when they come true.
    """

    sequence: Sequence
    first: int
    count: int
    ends: bool
    num_query_rows: int
    drafts: tuple[int, ...] = ()

    @property
    def token_ids(self) -> list[int]:
        """What is computed."""
        num_known = self.count - len(self.drafts)
        return [*self.sequence.tokens[self.first : self.first + num_known], *self.drafts]

    @property
    def is_decode(self) -> bool:
        """Whether it is one token and its drafts."""
        return self.ends and self.count == 1 + len(self.drafts)

    @property
    def num_sampled_rows(self) -> int:
        """Of how many of the last of them the logits are wanted."""
        return 1 + len(self.drafts) if self.ends else 0

    @property
    def num_true(self) -> int:
        """How many of them the sequence has, once the tokens behind it are sampled."""
        if not self.drafts:
            return self.count
        # Its last token has not been computed; where sampling has failed it is the one that was.
        return max(1, len(self.sequence.tokens) - 1 - self.first)

    def with_drafts(self, drafts: tuple[int, ...]) -> Chunk:
        """The same with ``drafts`` behind the sequence's last token, the only one it computes."""
        count = self.count + len(drafts)
        # Which of them will count is not known yet: all of their queries are wanted.
        num_query_rows = count if self.num_query_rows else 0
        return Chunk(self.sequence, self.first, count, self.ends, num_query_rows, drafts)

    @classmethod
    def of(cls, sequence: Sequence, count: int) -> Chunk:
        """The next ``count`` uncached tokens of ``sequence``."""
        if sequence.accumulates:
            num_query_rows = count
        else:
            num_query_rows = 0 if sequence.window is None else min(count, sequence.window.size)
        ends = count == sequence.num_uncached
        return cls(sequence, sequence.num_cached, count, ends, num_query_rows)


def sequence_on_pages(
    tokens: Iterable[int], layers: tuple[LayerGeometry, ...], first_page: int = 0
) -> Sequence:
    """``tokens`` without a policy, on as many pages as they take: ``first_page`` and on.

    For measurements, which need neither a pool nor a scheduler.
    """
    sequence = Sequence(list(tokens), layers, None)
    for layer in sequence.layers:
        layer.pages = list(range(first_page, first_page + pages_for(len(sequence.tokens))))
    return sequence
