"""One prompt on one model: its full cache's answer, and what cut caches say in its place."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.fidelity.budgets import budget_of, prefill_budget_of
from ov_kvcrush.evaluation.fidelity.divergence import (
    Doubles,
    Logits,
    Reference,
    log_likelihoods,
)
from ov_kvcrush.evaluation.fidelity.free_running import tokens_alike
from ov_kvcrush.evaluation.fidelity.prompts import Prompt
from ov_kvcrush.evaluation.fidelity.results import Score
from ov_kvcrush.runtime.scoring.cutter import cuts_while_reading
from ov_kvcrush.runtime.scoring.scorer import Scorer
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence


@dataclass(frozen=True)
class Given:
    """What every cache is told, and what the reference said to it.

    Attributes:
        answer: the full cache's, with the token that ended it.
        wanted: by setting, what the full cache said.
    """

    answer: tuple[int, ...]
    wanted: dict[str, tuple[Reference, Doubles]]


@dataclass
class Measurement:
    """One prompt on one scorer.

    Attributes:
        scorer: reads.
        prompt: what is read.
        ends: tokens that end an answer.
        given: by another scorer, whose full cache is the reference; None makes this one's that.
        settings: that will be asked for.
        keeps: parts of the prompt that will be asked for.
        prefill_factor: what stays while the prompt is read, of what stays in the end.
        whole_pages: budgets are rounded down to pages.
        runs_free: whether caches also write answers of their own, where the question is known.
    """

    scorer: Scorer
    prompt: Prompt
    ends: frozenset[int]
    given: Given | None
    settings: tuple[str, ...]
    keeps: tuple[Fraction, ...]
    prefill_factor: float
    whole_pages: bool
    runs_free: bool
    _read: dict[int, Sequence] = field(default_factory=dict)
    _given: Given = field(default_factory=lambda: Given((), {}))
    _first: Logits = field(default_factory=lambda: np.empty(0, np.float32))

    def begin(self, held: ExitStack) -> Given:
        """Read the prompt uncut; ``held`` keeps what was read until it is closed."""
        scorer, tokens = self.scorer, self.prompt.tokens
        base = held.enter_context(scorer.begun(tokens))
        for place in self._places():
            self._first = scorer.read(base, place)
            self._read[place] = base
            if place < len(tokens):
                self._read[place] = held.enter_context(scorer.forked(base, tokens))
        if self.given is not None:
            self._given = self.given
        else:
            with scorer.forked(base, tokens) as twin:
                answer = scorer.continue_greedily(
                    twin, int(self._first.argmax()), self.prompt.most_tokens, self.ends
                )
            self._given = Given(tuple(answer), {})
            for setting in self.settings:
                with scorer.forked(self._source(setting), tokens) as twin:
                    told, gold = self._tell(twin, setting, self._first)
                    self._given.wanted[setting] = (Reference(told), gold)
        return self._given

    def score(self, setting: str, configuration: Configuration) -> Score:
        """What the cache of ``configuration`` says in ``setting``; :meth:`begin` comes first."""
        scorer, tokens = self.scorer, self.prompt.tokens
        source, first = self._source(setting), self._first
        if configuration.keep is None:
            with scorer.forked(source, tokens) as cache:
                return self._scored(setting, 0, cache, first)
        cutter = scorer.cutters[configuration.policy]
        budget = budget_of(configuration.keep, len(tokens), self.whole_pages)
        if setting == "reading":
            cuts = self._cuts(budget)
            source = self._read[min(cuts[0].num_cached, len(tokens))]
            with scorer.forked(source, tokens, cutter) as cache:
                told = scorer.read_cutting(cache, cutter, cuts)
                return self._scored(setting, budget, cache, told if len(told) else first)
        # Where the question comes later, a text is cut as one that goes on.
        cut = Cut(source.num_cached, budget, reads_on=setting == "unknown")
        with scorer.forked(source, tokens, cutter) as cache:
            cutter.cut(cache, scorer.cache, cut)
            return self._scored(setting, budget, cache, first)

    def _places(self) -> list[int]:
        """Where the uncut reading stops for something to go on from, and its end."""
        num_tokens, places = len(self.prompt.tokens), set[int]()
        if "unknown" in self.settings:
            places.add(self.prompt.num_before)
        if "reading" in self.settings:
            places |= {self._cuts(budget)[0].num_cached for budget in self._budgets()}
        return sorted({*places, num_tokens})

    def _budgets(self) -> set[int]:
        size = len(self.prompt.tokens)
        return {budget_of(keep, size, self.whole_pages) for keep in self.keeps}

    def _cuts(self, budget: int) -> list[Cut]:
        prefill = prefill_budget_of(budget, self.prefill_factor, self.whole_pages)
        return cuts_while_reading(len(self.prompt.tokens), budget, prefill, self.scorer.chunk)

    def _source(self, setting: str) -> Sequence:
        """The uncut cache from which ``setting`` goes on."""
        before = setting == "unknown"
        return self._read[self.prompt.num_before if before else len(self.prompt.tokens)]

    def _scored(self, setting: str, budget: int, cache: Sequence, first: Logits) -> Score:
        scorer, given = self.scorer, self._given
        kept, kv_bytes = cache.mean_length, scorer.cache.bytes_of(cache)
        free: dict[str, Any] = {}
        if self.runs_free and setting == "known":
            with scorer.forked(cache, self.prompt.tokens) as twin:
                own = scorer.continue_greedily(
                    twin, int(first.argmax()), self.prompt.most_tokens, self.ends
                )
            free["free_tokens"] = tokens_alike(own, given.answer)
            free["free_alike"] = tuple(own) == given.answer
        told, gold = self._tell(cache, setting, first)
        reference, gold_wanted = given.wanted[setting]
        divergence = reference.compare(told)
        return Score(
            budget=budget,
            kept=kept,
            kv_bytes=kv_bytes,
            kl=tuple(divergence.kl.tolist()),
            alike=tuple(divergence.alike.tolist()),
            gold=float((gold - gold_wanted).mean()) if len(gold) else None,
            **free,
        )

    def _tell(self, cache: Sequence, setting: str, first: Logits) -> tuple[Logits, Doubles]:
        """What ``cache``, which grows, says while it is told the answer, and the right one.

        Args:
            cache: has read the prompt, but for the question where that is unknown.
            setting: where the question is known, the first token does not depend on a cut and does
                not count.
            first: logits behind the prompt, where it has read all of it.

        Returns:
            Logits ``[rows, vocab]`` of the answer's tokens that count, and log likelihoods of the
            right answer's.
        """
        scorer, answer, gold = self.scorer, self._given.answer, self.prompt.gold
        is_read = not cache.num_uncached
        rows = [max(0, len(tokens) - is_read) for tokens in (answer, gold)]
        with scorer.forked(cache, [*self.prompt.tokens, *gold[:-1]]) as twin:
            cache.tokens += answer[:-1]
            wanted = [(cache, rows[0]), (twin, rows[1])] if gold else [(cache, rows[0])]
            told, *others = scorer.logits(*wanted)
            told_gold = others[0] if others else told[:0]
            likelihoods = log_likelihoods(told_gold, np.array(gold[len(gold) - rows[1] :], int))
        if setting == "reading":
            told = np.concatenate([first[None], told])
            if gold:
                of_first = log_likelihoods(first[None], np.array(gold[:1]))
                likelihoods = np.concatenate([of_first, likelihoods])
        return told, likelihoods
