"""Reads each prompt once, cuts forks of it in every way, and compares what they then say."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.fidelity.budgets import (
    PREFILL_FACTOR,
    budget_of,
    leaves_nothing,
    needs_whole_pages,
)
from ov_kvcrush.evaluation.fidelity.cut_forks import CutRule
from ov_kvcrush.evaluation.fidelity.free_running import GenaiAnswers, end_tokens, tokens_alike
from ov_kvcrush.evaluation.fidelity.measuring import Given, Measurement
from ov_kvcrush.evaluation.fidelity.prompts import Prompt, Prompter
from ov_kvcrush.evaluation.fidelity.results import SETTINGS, PromptScores, Score
from ov_kvcrush.evaluation.fidelity.scorers import ScorerSettings
from ov_kvcrush.evaluation.fidelity.texts import Text
from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.pipeline.loaded_model import model_context_length
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder
from ov_kvcrush.pipeline.special_tokens import added_tokens
from ov_kvcrush.precisions import AUTO
from ov_kvcrush.progress import Progress
from ov_kvcrush.runtime.scoring.scorer import Scorer

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

CHUNK = 1024
"""Tokens that are read at once, and between two cuts while reading."""

ANSWER_TOKENS = 32


@dataclass(frozen=True)
class FidelityRun:
    """A model on a device, and what is asked of it.

    Attributes:
        model_dir: exported model.
        configurations: of the cache, the full one first in each precision.
        settings: of ``SETTINGS``.
        device: name of the device; other engines than openvino_genai's run on the CPU alone.
        properties: of the plugin.
        num_tokens: of an answer, at most.
        prefill_factor: what stays while a prompt is read, of what stays in the end; 0 is all.
        chunk: tokens that are read at once.
        decode_precision: as ``LLMPipeline`` has it.
    """

    model_dir: Path
    configurations: Sequence[Configuration]
    settings: Sequence[str] = SETTINGS
    device: str = "CPU"
    properties: Mapping[str, str] | None = None
    num_tokens: int = ANSWER_TOKENS
    prefill_factor: float = PREFILL_FACTOR
    chunk: int = CHUNK
    decode_precision: str = AUTO

    def prompts(
        self,
        texts: Sequence[Text],
        progress: Progress,
        *,
        sizes: tuple[int, int] | None = None,
        split: str = "all",
        limit: int | None = None,
    ) -> list[Prompt]:
        """The prompts that are measured on, of ``texts`` in the order in which they are wanted.

        Raises:
            ModelError: there is no tokenizer, or no chat template where one is needed.
            ConfigError: none can be used.
            OVKVCrushError: a text cannot be put through the chat template.
        """
        encoder = PromptEncoder(load_tokenizer(self.model_dir), added_tokens(self.model_dir))
        context = model_context_length(self.model_dir)
        prompter = Prompter(encoder, self.num_tokens, context, sizes, split)
        pages = needs_whole_pages(self.configurations)
        return prompter.choose(
            texts,
            limit,
            lambda tokens: leaves_nothing(self.configurations, tokens, pages) is not None,
            progress.note,
        )

    def run(self, prompts: Sequence[Prompt], progress: Progress) -> Iterator[PromptScores]:
        """Measure one prompt after the other; the scores of each once they are there.

        Raises:
            OVKVCrushError: as the engines, when they are made or run.
            KeyboardInterrupt: Ctrl+C.
        """
        tokenizer = load_tokenizer(self.model_dir)
        ends = end_tokens(self.model_dir, tokenizer)
        scorers = self._scorers(prompts)
        for number, prompt in enumerate(prompts, start=1):
            title = f"{prompt.task}, {len(prompt.tokens):,} tokens"
            progress.step(number, len(prompts), title)
            begun = time.perf_counter()
            given: Given | None = None
            scores: dict[tuple[str, Configuration], Score] = {}
            for scorer, configurations in scorers:
                measurement = self._measurement(scorer, prompt, ends, given)
                with ExitStack() as held:
                    given = measurement.begin(held)
                    for done, (setting, configuration) in enumerate(
                        (s, c) for c in configurations for s in self.settings
                    ):
                        scores[setting, configuration] = measurement.score(setting, configuration)
                        progress.advance((done + 1) / len(configurations) / len(self.settings))
            assert given is not None
            scores |= self._genai_scores(tokenizer, prompt)
            answer = str(tokenizer.decode(given.answer))
            seconds = time.perf_counter() - begun
            yield PromptScores(prompt.id, prompt.task, len(prompt.tokens), answer, seconds, scores)

    def _measurement(
        self, scorer: Scorer, prompt: Prompt, ends: frozenset[int], given: Given | None
    ) -> Measurement:
        return Measurement(
            scorer,
            prompt,
            ends,
            given,
            settings=tuple(self.settings),
            keeps=tuple({c.keep for c in self.configurations if c.keep is not None}),
            rule=CutRule(self.prefill_factor, needs_whole_pages(self.configurations)),
            runs_free=self._runs_free,
        )

    @property
    def _runs_free(self) -> bool:
        return any(c.engine == "genai" for c in self.configurations) and "known" in self.settings

    def _scorers(self, prompts: Sequence[Prompt]) -> list[tuple[Scorer, list[Configuration]]]:
        """A model for each precision, and what it serves."""
        longest = max(len(p.tokens) + len(p.tokens) - p.num_before for p in prompts)
        # The prompt, a cut copy of it, and what is read behind the two.
        pool_size = 3 * longest + 8 * self.num_tokens + 1024
        settings = ScorerSettings(
            self.model_dir, self.device, self.properties, self.chunk, self.decode_precision
        )
        return settings.make(self.configurations, pool_size)

    def _genai_scores(
        self, tokenizer: Tokenizer, prompt: Prompt
    ) -> dict[tuple[str, Configuration], Score]:
        if not self._runs_free:
            return {}
        answers = GenaiAnswers(
            self.model_dir, tokenizer, self.device, dict(self.properties or {}), self.chunk
        )
        wanted: dict[tuple[str, str] | None, list[int]] = {}
        scores = {}
        for configuration in self.configurations:
            if configuration.engine != "genai" or configuration.keep is None:
                continue
            precision = configuration.precision
            if precision not in wanted:
                wanted[precision] = answers.full(prompt.tokens, prompt.most_tokens, precision)
            budget = budget_of(configuration.keep, len(prompt.tokens), whole_pages=True)
            answer = answers.cut(prompt.tokens, prompt.most_tokens, configuration, budget)
            scores["known", configuration] = Score(
                budget=budget,
                kept=budget,
                kv_bytes=0,
                free_tokens=tokens_alike(answer, wanted[precision]),
                free_alike=answer == wanted[precision],
            )
        return scores
