"""One sample asked of all caches on one model: read once, cut in every way, answered together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ov_kvcrush.evaluation.asking.dialogue import Dialogue, Score
from ov_kvcrush.evaluation.asking.rendering import SamplePrompt, SampleReader
from ov_kvcrush.evaluation.asking.results import Cell
from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.fidelity.budgets import budget_of
from ov_kvcrush.evaluation.fidelity.cut_forks import CutForks, CutRule
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.scoring.scorer import Scorer
from ov_kvcrush.runtime.sequences.sequence import Sequence as CachedSequence

# Uncut caches that are kept to go on from, at most: one for each budget.
_UNCUT_FORKS = 64


@dataclass
class _Asked:
    """A cache that is asked.

    Attributes:
        cell: without answers.
        cache: has read what stands before the next answer, or some of it.
        dialogue: with it.
        first: token of the next answer, where it has read all of it.
    """

    cell: Cell
    cache: CachedSequence
    dialogue: Dialogue
    first: int


@dataclass(frozen=True)
class Asker:
    """Asks samples.

    A cache is cut as its setting has it, for the first question; later questions are read behind
    what that has left, and nothing is cut again: their turns are taken as within the slack.

    Attributes:
        scorer: reads and answers.
        reader: of samples.
        ends: tokens that end an answer.
        score: of an answer.
        settings: of ``SETTINGS``.
        rule: of the cuts.
        together: caches that are held, and answer, at the same time.
    """

    scorer: Scorer
    reader: SampleReader
    ends: AbstractSet[int]
    score: Score
    settings: tuple[str, ...]
    rule: CutRule
    together: int

    @staticmethod
    def pool_size(most_tokens: int, together: int) -> int:
        """Tokens that the pool of a scorer needs for conversations of at most ``most_tokens``.

        As if each cache held all: a layer may get more than its even part of a budget. It is
        address space alone, and memory is taken for what is really held.
        """
        # Pages that are not full are copied when those who share them go on in them.
        return (1 + together) * (most_tokens + 2 * PAGE_SIZE) + _UNCUT_FORKS * PAGE_SIZE

    def ask(
        self,
        prompt: SamplePrompt,
        configurations: Sequence[Configuration],
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> list[Cell]:
        """A cell for each of ``configurations`` and settings, in their order.

        Args:
            prompt: of the sample.
            configurations: of the scorer's precision.
            on_progress: told what share is done, 0 to 1.
        """
        jobs = [
            (setting, configuration)
            for configuration in configurations
            # Where nothing is cut, it does not matter when.
            for setting in (self.settings[:1] if configuration.keep is None else self.settings)
        ]
        size, cells = len(prompt.tokens), list[Cell]()
        budgets = {self._budget(c, size) for c in configurations if c.keep is not None}
        with ExitStack() as held:
            forks = CutForks.of(
                held,
                self.scorer,
                prompt.tokens,
                prompt.num_before,
                self.rule,
                self.settings,
                budgets,
            )
            for begin in range(0, len(jobs), self.together):
                group = jobs[begin : begin + self.together]
                with ExitStack() as caches:
                    asked = [self._begin(caches, forks, prompt, *job) for job in group]
                    cells += self._converse(asked)
                on_progress((begin + len(group)) / len(jobs))
        return self._in_all_settings(cells, configurations)

    def _begin(
        self,
        held: ExitStack,
        forks: CutForks,
        prompt: SamplePrompt,
        setting: str,
        configuration: Configuration,
    ) -> _Asked:
        """Cut a fork; ``held`` keeps it until it is closed."""
        budget = 0
        if configuration.keep is None:
            uncut = forks.uncut("known")
            cache = held.enter_context(self.scorer.forked(uncut, forks.tokens))
            first = forks.first
        else:
            budget = self._budget(configuration, len(forks.tokens))
            cache, first = held.enter_context(forks.cut(setting, configuration.policy, budget))
        return _Asked(
            Cell(
                setting,
                configuration.name,
                budget,
                cache.mean_length,
                self.scorer.cache.bytes_of(cache),
                (),
                self.scorer.kept_by_head(cache) if budget else (),
            ),
            cache,
            Dialogue(self.reader, prompt, self.ends, self.score),
            int(first.argmax()),
        )

    def _converse(self, asked: Sequence[_Asked]) -> list[Cell]:
        """Ask every question, of all caches together."""
        scorer, dialogue = self.scorer, asked[0].dialogue
        while (question := dialogue.question) is not None:
            unread = [one for one in asked if one.cache.num_uncached]
            firsts = scorer.read_together([one.cache for one in unread])
            for one, first in zip(unread, firsts, strict=True):
                one.first = first
            with ExitStack() as held:
                # An answer is written by a fork of its own: the cache may go on with another reply,
                # and does not depend on what was written behind it.
                forks = [
                    held.enter_context(scorer.forked(one.cache, one.cache.tokens)) for one in asked
                ]
                wanted = [
                    (fork, one.first, question.most_tokens)
                    for fork, one in zip(forks, asked, strict=True)
                ]
                written = scorer.answer_together(wanted, self.ends)
            for one, answer in zip(asked, written, strict=True):
                one.dialogue.take(answer)
                one.cache.tokens[:] = one.dialogue.tokens
        return [replace(one.cell, answers=tuple(one.dialogue.answers)) for one in asked]

    def _budget(self, configuration: Configuration, num_tokens: int) -> int:
        if configuration.keep is None:
            return 0
        return budget_of(configuration.keep, num_tokens, self.rule.whole_pages)

    def _in_all_settings(
        self, cells: Sequence[Cell], configurations: Sequence[Configuration]
    ) -> list[Cell]:
        """``cells``, those of full caches once for each setting."""
        full = {c.name for c in configurations if c.keep is None}
        return [
            replace(cell, setting=setting)
            for cell in cells
            for setting in (self.settings if cell.configuration in full else [cell.setting])
        ]
