"""When the cache of a sequence is cut, to how many tokens, and what it holds until then."""

from __future__ import annotations

import sys
from dataclasses import replace
from math import ceil, floor

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence

# Shorter ones fill the processor worse: they read 15 % slower than the longest. So do those whose
# length has large prime factors, for matrix multiplications are divided into equal blocks: 928
# tokens at a time read a prompt 15 % slower than 896.
_LEAST_STRETCH = 512
_STRETCH_STEP = 128

# What is read twice is read in shorter stretches: the pages that the second reading takes for a
# moment come on top of the stretch, and both together are to take no more than one reading. Shorter
# than this they fill the processor worse than that saves.
_LEAST_THOROUGH_STRETCH = 384

# Tokens of one inference of a second reading at most, with what asks for it.
_MOST_READ_AGAIN, MOST_INSTRUCTION = 544, 32


class CutPlanner:
    """Plans the cuts of sequences, and foresees the pages that they take.

    Args:
        config: what the cache may hold.
        budgets: what a cut leaves of each layer.
        chunk: most tokens of one inference.

    Attributes:
        evicts: whether there is a budget at all.
        most_read_again: tokens of one inference of a second reading, with what asks for it.
    """

    def __init__(self, config: KVCacheConfig, budgets: CacheBudgets, chunk: int) -> None:
        self._config = config
        self.evicts = config.evicts
        self._budgets = budgets
        self._stretch = stretch_between_cuts(config.max_cache_size, chunk)
        half = max(_LEAST_THOROUGH_STRETCH, self._stretch // 2)
        self._thorough_stretch = min(self._stretch, half)
        self.most_read_again = min(_MOST_READ_AGAIN, self._thorough_stretch + MOST_INSTRUCTION)
        # What the layers hold on average when decoding has to cut them once more.
        self._limit = config.max_cache_size + config.decode_slack

    def plan_prompt(
        self,
        sequence: Sequence,
        num_tokens: int,
        reads_on: bool = False,
        thorough: bool = False,
    ) -> None:
        """Plan the cuts of ``sequence`` up to the end of its prompt, the first ``num_tokens``.

        ``reads_on``: what is asked about it will only follow. ``thorough``: each stretch is read
        again.
        """
        config = self._config
        if not self.evicts:
            return
        new = num_tokens - sequence.num_cached
        grown = [layer.length + new for layer in sequence.layers]
        # A chat's next question that fits the slack does not cut the cache once more.
        if sequence.num_cached and not self._is_outgrown(grown):
            return
        sequence.planned_cuts += plan_cuts(
            sequence.num_cached,
            num_tokens,
            max_cache_size=config.max_cache_size,
            prefill_budget=config.tokens_kept_in_prefill,
            stretch=self._thorough_stretch if thorough else self._stretch,
            first=0 if thorough else self._first_stretch(sequence),
            thorough=thorough,
        )
        if reads_on:
            sequence.planned_cuts[-1] = replace(sequence.planned_cuts[-1], reads_on=True)

    def _first_stretch(self, sequence: Sequence) -> int:
        """Tokens until ``sequence`` holds as much as it will before any later cut."""
        # A layer with a sliding window holds all of a stretch until it has been read.
        if self._budgets.sliding or not self._budgets.budgeted:
            return self._stretch
        held = ceil(self._budgets.mean_held(sequence.lengths))
        return self._config.tokens_kept_in_prefill + self._stretch - held

    def due(self, sequence: Sequence) -> Cut | None:
        """The planned cut at which ``sequence`` stands, or one because it outgrew the slack."""
        if sequence.planned_cuts:
            return sequence.planned_cuts[0] if sequence.is_cut_due else None
        if self._is_outgrown(sequence.lengths):
            return Cut(sequence.num_cached, self._config.max_cache_size)
        return None

    def stretch(self, sequence: Sequence) -> int:
        """How many tokens ``sequence`` can take in up to the one at which the next cut is due.

        As many as it likes where none will be.
        """
        if sequence.planned_cuts:
            return sequence.planned_cuts[0].num_cached - sequence.num_cached
        if not (self.evicts and self._budgets.budgeted):
            return sys.maxsize
        # Every layer takes in every token.
        return max(1, self._limit - floor(self._budgets.mean_held(sequence.lengths)))

    def pages_at_most(self, sequence: Sequence, decoding: bool = False) -> list[list[int]]:
        """Pages by layer at each of the planned cuts and at the end: what the pool has to hold.

        Args:
            sequence: not changed.
            decoding: also when it has grown behind its prompt as far as the slack allows.
        """
        budgets = self._budgets
        held = sequence.lengths
        at, stages = sequence.num_cached, []
        for cut in [*sequence.planned_cuts, Cut(len(sequence.tokens), 0)]:
            held = [tokens + cut.num_cached - at for tokens in held]
            at = cut.num_cached
            # The page that is not full is copied, as the sequence and its second reading share it.
            again = pages_for(self.most_read_again) + 1 if cut.thorough else 0
            stages.append([pages_for(tokens) + again for tokens in held])
            held = budgets.left_by(cut, held)
        if decoding and self.evicts and budgets.budgeted:
            room = max(0, self._limit - int(budgets.mean_held(held)))
            stages.append([pages_for(tokens + room) for tokens in held])
        return stages

    def _is_outgrown(self, held: list[int]) -> bool:
        return self._budgets.is_over(held, self._limit - 1)


def stretch_between_cuts(max_cache_size: int, chunk: int) -> int:
    """Tokens of a prompt that are read from one cut to the next, at most ``chunk``.

    Longer stretches attend to more, shorter ones are cut more often: what both take together is
    least where a stretch is about as long as the budget, and flat around it.
    """
    even = -(-max_cache_size // _STRETCH_STEP) * _STRETCH_STEP
    return min(chunk, max(_LEAST_STRETCH, even))


def plan_cuts(
    num_cached: int,
    num_tokens: int,
    *,
    max_cache_size: int,
    prefill_budget: int,
    stretch: int,
    first: int = 0,
    thorough: bool = False,
) -> list[Cut]:
    """The cuts of a prompt whose tokens ``num_cached … num_tokens - 1`` are still to be read.

    After every ``stretch`` of tokens the cache is cut to ``prefill_budget``, so that it never holds
    more than both together; at the end to ``max_cache_size``. A ``prefill_budget`` of 0 leaves the
    last cut alone, or, where it is to be ``thorough``, others that keep everything. The ``first``
    stretch may be longer than the others: where nothing has been cut there is more room.
    """
    cuts = []
    if prefill_budget or thorough:
        cuts = [
            Cut(boundary, prefill_budget or boundary, reads_on=True, thorough=thorough)
            for boundary in range(num_cached + max(first, stretch), num_tokens, stretch)
        ]
    return [*cuts, Cut(num_tokens, max_cache_size, thorough=thorough)]
