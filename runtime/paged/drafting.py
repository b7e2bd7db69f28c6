"""Drafts in a step: who gets how many, and what is put right where they did not come true."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from ov_kvcrush.runtime.eviction.cut_plan import CutPlanner
from ov_kvcrush.runtime.generation.draft_costs import DraftCosts
from ov_kvcrush.runtime.generation.draft_policy import share_out
from ov_kvcrush.runtime.generation.drafter import Drafter, make_drafter
from ov_kvcrush.runtime.generation.prompt_lookup import Draft
from ov_kvcrush.runtime.generation.request import Generation, Request
from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.paged_model import MOST_DECODE_TOKENS
from ov_kvcrush.runtime.paged.running import RunningRequests
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence

if TYPE_CHECKING:
    # It loads Numba, which who drafts nothing does not wait for.
    from ov_kvcrush.runtime.pages.taking_back import OpenPage


@dataclass(frozen=True)
class _Guess:
    """What is drafted for a sequence in a step, and what its cache was before."""

    drafter: Drafter
    draft: Draft
    open_pages: list[OpenPage] = field(default_factory=list)


class Drafting:
    """Puts drafts into steps that only decode, as many as pay.

    A draft never reaches behind the place where a cut is due: cuts are made where they would be
    without. It takes no page that anybody holds, and a step with drafts computes no more tokens
    than are cheap together.

    Args:
        cache: gives pages to draft into, and takes them back.
        planner: says where cuts are due.
        requests: whose sequence is whose.
        most: tokens of a draft; 0 for none.
        most_rows: tokens of one inference.

    Attributes:
        most: tokens of a draft.
    """

    def __init__(
        self,
        cache: KVCache,
        planner: CutPlanner,
        requests: RunningRequests,
        most: int,
        most_rows: int,
    ) -> None:
        self._cache = cache
        self._planner = planner
        self._requests = requests
        self.most = most
        self._most_rows = min(most_rows, MOST_DECODE_TOKENS)
        self._costs = DraftCosts(self._most_rows)
        self._guesses: dict[Sequence, _Guess] = {}
        if most:
            from ov_kvcrush.runtime.pages.taking_back import compile_taking_back

            compile_taking_back()

    def begin(self, request: Request) -> None:
        """Let drafts be made for ``request``, as its settings want them."""
        for generation in request.generations:
            generation.drafter = make_drafter(request.config, self.most)

    def add(self, chunks: SequenceOf[Chunk]) -> list[Chunk]:
        """The ``chunks`` of a step, with drafts behind those where they pay."""
        self._guesses = {}
        if not self.most or not all(map(self._decodes, chunks)):
            return list(chunks)
        found = [self._find(chunk, self._most_rows - len(chunks)) for chunk in chunks]
        counts = share_out(
            [guess.drafter.record for guess in found],
            [guess.draft.match for guess in found],
            [len(guess.draft.tokens) for guess in found],
            partial(self._costs.ratio, len(chunks)),
            partial(self._costs.change, len(chunks)),
        )
        return [
            self._with_drafts(chunk, guess, count)
            for chunk, guess, count in zip(chunks, found, counts, strict=True)
        ]

    def take_back(self, batch: Batch) -> None:
        """Put the pages of ``batch`` right whose drafts, as is known now, have not come true."""
        for chunk in batch.chunks:
            if chunk.num_true < chunk.count:
                for page in self._guesses[chunk.sequence].open_pages:
                    page.take_back(chunk.count, chunk.num_true)

    def note(self, batch: Batch, seconds: float) -> None:
        """Learn from a step: it has taken so long, and what came true is stored.

        Pages that only drafts were written to are given back.
        """
        if not self._guesses:
            self._costs.note_other()
            return
        num_sequences, num_rows = len(batch.chunks), len(batch.input_ids)
        change = self._costs.change(num_sequences, num_rows)
        self._costs.note(num_sequences, num_rows, seconds)
        num_drafts = num_rows - num_sequences
        lost = num_sequences * (self._costs.ratio(num_sequences, num_rows) - 1.0 + change)
        for chunk in batch.chunks:
            guess, drafted = self._guesses[chunk.sequence], len(chunk.drafts)
            record, draft = guess.drafter.record, guess.draft
            if drafted:
                part = lost * drafted / num_drafts
                record.note(draft.match, drafted, chunk.num_true - 1, part)
            else:
                came_true = draft.tokens[:1] == tuple(chunk.sequence.tokens[-1:])
                record.note_guess(draft.match if draft.tokens else 0, came_true)
            if chunk.num_true < chunk.count:
                self._cache.trim(chunk.sequence)

    def _decodes(self, chunk: Chunk) -> bool:
        generation = self._requests.generation_of(chunk.sequence)
        return chunk.is_decode and bool(generation.tokens) and generation.drafter is not None

    def _find(self, chunk: Chunk, num_rows: int) -> _Guess:
        """A draft behind ``chunk``, of ``num_rows`` tokens at most."""
        sequence = chunk.sequence
        generation = self._requests.generation_of(sequence)
        drafter = _drafter_of(generation)
        # Each step gives one token more than comes true of its draft.
        most = min(drafter.most, num_rows, generation.checker.num_left - 1)
        draft = drafter.draft(sequence.tokens, most)
        if draft.tokens:
            within = self._planner.stretch(sequence) - 1
            if within < len(draft.tokens):
                draft = replace(draft, tokens=draft.tokens[:within])
        return _Guess(drafter, draft)

    def _with_drafts(self, chunk: Chunk, guess: _Guess, count: int) -> Chunk:
        sequence = chunk.sequence
        self._guesses[sequence] = guess
        if not count or not self._cache.extend_freely(sequence, 1 + count):
            return chunk
        from ov_kvcrush.runtime.pages.taking_back import OpenPage

        lengths, tables = sequence.lengths, sequence.page_tables
        for memory, pages, length in zip(self._cache.memories, tables, lengths, strict=True):
            guess.open_pages.append(OpenPage(memory, pages, length))
        return chunk.with_drafts(guess.draft.tokens[:count])


def _drafter_of(generation: Generation) -> Drafter:
    if generation.drafter is None:
        raise RuntimeError("drafts are to be made for a sequence without a drafter")
    return generation.drafter
