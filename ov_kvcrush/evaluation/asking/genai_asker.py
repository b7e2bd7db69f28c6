"""One sample asked of openvino_genai's caches, one engine after the other."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ov_kvcrush.evaluation.asking.dialogue import Dialogue, Score
from ov_kvcrush.evaluation.asking.rendering import SamplePrompt, SampleReader
from ov_kvcrush.evaluation.asking.results import Cell
from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.fidelity.budgets import budget_of
from ov_kvcrush.evaluation.fidelity.free_running import GenaiAnswers

SETTING = "known"
"""It cuts behind what it was asked and never before: other settings it does not have."""


@dataclass(frozen=True)
class GenaiAsker:
    """Asks samples of openvino_genai, with its evictions and without.

    It keeps no cache between turns: each reads the whole conversation, with nothing cut before its
    question, and then keeps as many tokens in all as the other engine's caches did behind the first
    question.

    Attributes:
        answers: makes its engines; each sample and configuration takes one of its own.
        reader: of samples.
        ends: tokens that end an answer.
        score: of an answer.
    """

    answers: GenaiAnswers
    reader: SampleReader
    ends: AbstractSet[int]
    score: Score

    def ask(self, prompt: SamplePrompt, configuration: Configuration) -> Cell:
        """The cell of ``configuration``, which is openvino_genai's.

        Args:
            prompt: of the sample.
            configuration: keeps whole pages, or everything.

        Raises:
            OVKVCrushError: as its engine, when it is made or runs.
        """
        size, budget = len(prompt.tokens), 0
        if configuration.keep is not None:
            budget = budget_of(configuration.keep, size, whole_pages=True)
        dialogue = Dialogue(self.reader, prompt, self.ends, self.score)
        engine = self.answers.engine(configuration, budget, prompt.most_tokens + 1)
        kv_bytes = 0
        while (question := dialogue.question) is not None:
            answer = self.answers.answer(engine, dialogue.tokens, question.most_tokens)
            kv_bytes = kv_bytes or answer.metrics.kv_bytes
            dialogue.take(answer.tokens)
        answers = tuple(dialogue.answers)
        return Cell(SETTING, configuration.name, budget, budget or size, kv_bytes, answers)
