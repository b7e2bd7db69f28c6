"""One prompt on one model: its full cache's answer, and what cut caches say in its place."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.fidelity.budgets import budget_of
from ov_kvcrush.evaluation.fidelity.cut_forks import CutForks, CutRule
from ov_kvcrush.evaluation.fidelity.divergence import (
    Doubles,
    Logits,
    Reference,
    log_likelihoods,
)
from ov_kvcrush.evaluation.fidelity.free_running import tokens_alike
from ov_kvcrush.evaluation.fidelity.prompts import Prompt
from ov_kvcrush.evaluation.fidelity.results import Score
from ov_kvcrush.runtime.scoring.scorer import Scorer
from ov_kvcrush.runtime.sequences.sequence import Sequence


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
        rule: of the cuts.
        runs_free: whether caches also write answers of their own, where the question is known.
    """

    scorer: Scorer
    prompt: Prompt
    ends: frozenset[int]
    given: Given | None
    settings: tuple[str, ...]
    keeps: tuple[Fraction, ...]
    rule: CutRule
    runs_free: bool
    _given: Given = field(default_factory=lambda: Given((), {}))
    _forks: CutForks = field(init=False)

    def begin(self, held: ExitStack) -> Given:
        """Read the prompt uncut; ``held`` keeps what was read until it is closed."""
        scorer, prompt = self.scorer, self.prompt
        self._forks = forks = CutForks.of(
            held,
            scorer,
            prompt.tokens,
            prompt.num_before,
            self.rule,
            self.settings,
            {self._budget(keep) for keep in self.keeps},
        )
        if self.given is not None:
            self._given = self.given
        else:
            with scorer.forked(forks.uncut("known"), prompt.tokens) as twin:
                answer = scorer.continue_greedily(
                    twin, int(forks.first.argmax()), prompt.most_tokens, self.ends
                )
            self._given = Given(tuple(answer), {})
            for setting in self.settings:
                with scorer.forked(forks.uncut(setting), prompt.tokens) as twin:
                    told, gold = self._tell(twin, setting, forks.first)
                    self._given.wanted[setting] = (Reference(told), gold)
        return self._given

    def score(self, setting: str, configuration: Configuration) -> Score:
        """What the cache of ``configuration`` says in ``setting``; :meth:`begin` comes first."""
        forks = self._forks
        if configuration.keep is None:
            with self.scorer.forked(forks.uncut(setting), self.prompt.tokens) as cache:
                return self._scored(setting, 0, cache, forks.first)
        budget = self._budget(configuration.keep)
        with forks.cut(setting, configuration.policy, budget) as (cache, first):
            return self._scored(setting, budget, cache, first)

    def _budget(self, keep: Fraction) -> int:
        return budget_of(keep, len(self.prompt.tokens), self.rule.whole_pages)

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
