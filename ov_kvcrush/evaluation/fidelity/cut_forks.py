"""A prompt that is read once, and forks of its cache that are cut as each setting has it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ov_kvcrush.evaluation.fidelity.budgets import prefill_budget_of
from ov_kvcrush.evaluation.fidelity.divergence import Logits
from ov_kvcrush.runtime.scoring.cutter import cuts_while_reading
from ov_kvcrush.runtime.scoring.scorer import Scorer
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence


@dataclass(frozen=True)
class CutRule:
    """What all cuts of a prompt go by.

    Attributes:
        prefill_factor: what stays while a prompt is read, of what stays in the end; 0 is all.
        whole_pages: budgets are rounded down to pages.
    """

    prefill_factor: float
    whole_pages: bool

    def cuts_while_reading(self, num_tokens: int, budget: int, chunk: int) -> list[Cut]:
        """The cuts of a prompt of ``num_tokens`` in the setting ``reading``."""
        prefill = prefill_budget_of(budget, self.prefill_factor, self.whole_pages)
        return cuts_while_reading(num_tokens, budget, prefill, chunk)


@dataclass(frozen=True)
class CutForks:
    """One prompt on one scorer. Whatever is done with one fork changes no other.

    Attributes:
        scorer: has read it.
        tokens: of the prompt.
        num_before: tokens before the question.
        rule: of the cuts.
        read: uncut caches, by the number of tokens they have read.
        first: logits ``[vocab]`` behind the prompt, of the full cache.
    """

    scorer: Scorer
    tokens: tuple[int, ...]
    num_before: int
    rule: CutRule
    read: dict[int, Sequence]
    first: Logits

    @classmethod
    def of(
        cls,
        held: ExitStack,
        scorer: Scorer,
        tokens: tuple[int, ...],
        num_before: int,
        rule: CutRule,
        settings: Collection[str],
        budgets: Collection[int],
    ) -> CutForks:
        """Read the prompt uncut; ``held`` keeps what was read until it is closed.

        Args:
            held: closed, it gives all pages back.
            scorer: reads.
            tokens: of the prompt.
            num_before: tokens before the question.
            rule: of the cuts.
            settings: that will be asked for.
            budgets: that will be asked for, in tokens.
        """
        size, places = len(tokens), set[int]()
        if "unknown" in settings:
            places.add(num_before)
        if "reading" in settings:
            cuts = (rule.cuts_while_reading(size, budget, scorer.chunk) for budget in budgets)
            places |= {first.num_cached for first, *_ in cuts}
        base = held.enter_context(scorer.begun(tokens))
        read: dict[int, Sequence] = {}
        for place in sorted({*places, size}):
            first = scorer.read(base, place)
            read[place] = base
            if place < size:
                read[place] = held.enter_context(scorer.forked(base, tokens))
        return cls(scorer, tokens, num_before, rule, read, first)

    def uncut(self, setting: str) -> Sequence:
        """The uncut cache from which ``setting`` goes on."""
        return self.read[self.num_before if setting == "unknown" else len(self.tokens)]

    @contextmanager
    def cut(self, setting: str, policy: str, budget: int) -> Iterator[tuple[Sequence, Logits]]:
        """A cut fork, and the logits behind the prompt where it has read all of it.

        Args:
            setting: of ``SETTINGS``.
            policy: of one of the scorer's cutters.
            budget: in tokens.
        """
        scorer, tokens, first = self.scorer, self.tokens, self.first
        cutter = scorer.cutters[policy]
        if setting == "reading":
            cuts = self.rule.cuts_while_reading(len(tokens), budget, scorer.chunk)
            with scorer.forked(self.read[cuts[0].num_cached], tokens, cutter) as cache:
                told = scorer.read_cutting(cache, cutter, cuts)
                yield cache, told if len(told) else first
            return
        source = self.uncut(setting)
        # Where the question comes later, a text is cut as one that goes on.
        cut = Cut(source.num_cached, budget, reads_on=setting == "unknown")
        with scorer.forked(source, tokens, cutter) as cache:
            cutter.cut(cache, scorer.cache, cut)
            yield cache, first
