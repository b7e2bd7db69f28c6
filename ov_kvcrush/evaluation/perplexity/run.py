"""Reads passages chunk by chunk, cuts each cache behind every chunk, and notes what it expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.fidelity.budgets import budget_of, leaves_nothing, needs_whole_pages
from ov_kvcrush.evaluation.fidelity.divergence import log_likelihoods
from ov_kvcrush.evaluation.fidelity.scorers import ScorerSettings
from ov_kvcrush.evaluation.perplexity.passages import Passage
from ov_kvcrush.evaluation.perplexity.results import PassageResult, Told
from ov_kvcrush.precisions import AUTO
from ov_kvcrush.progress import Progress
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.scoring.scorer import Scorer
from ov_kvcrush.runtime.sequences.sequence import Cut

CHUNK = 128
"""Tokens that are read between two cuts, all of whose logits are looked at."""


@dataclass(frozen=True)
class PerplexityRun:
    """A model on a device, and how its caches are cut.

    Tokens behind the first chunk count; what comes before is read by all caches alike.

    Attributes:
        model_dir: exported model.
        configurations: of the cache, of our own engine, the full one first in each precision.
        device: name of the device.
        properties: of the plugin.
        chunk: tokens that are read between two cuts.
        decode_precision: as ``LLMPipeline`` has it.
    """

    model_dir: Path
    configurations: Sequence[Configuration]
    device: str = "CPU"
    properties: Mapping[str, str] | None = None
    chunk: int = CHUNK
    decode_precision: str = AUTO

    def check(self, passages: Sequence[Passage]) -> None:
        """Refuse before anything runs what could not be cut.

        Raises:
            ConfigError: a configuration is of another engine, or leaves nothing to choose of a
                passage; or a passage has no token that counts.
        """
        for configuration in self.configurations:
            if configuration.engine != "paged":
                raise ConfigError(
                    f"{configuration.name}: {configuration.engine} does not tell what it expects",
                    "Leave it out: --suite ppl is for our own engine.",
                )
        size = min(len(passage.tokens) for passage in passages)
        if size <= self.chunk + 1:
            raise ConfigError(
                f"passages of {size} tokens leave none behind the first {self.chunk}",
                "Give a larger --length, or a smaller --chunk.",
            )
        error = leaves_nothing(self.configurations, size, needs_whole_pages(self.configurations))
        if error is not None:
            raise ConfigError(f"passages of {size} tokens: {error.message}", error.hint)

    def run(self, passages: Sequence[Passage], progress: Progress) -> Iterator[PassageResult]:
        """Tell one passage after the other; each result once it is there.

        Raises:
            OVKVCrushError: as :meth:`check`, and as the engine when it is made.
            KeyboardInterrupt: Ctrl+C.
        """
        self.check(passages)
        longest = max(len(passage.tokens) for passage in passages)
        settings = ScorerSettings(
            self.model_dir, self.device, self.properties, self.chunk, self.decode_precision
        )
        scorers = settings.make(self.configurations, 2 * longest + 8 * PAGE_SIZE)
        for number, passage in enumerate(passages, start=1):
            title = f"{passage.task}, {len(passage.tokens):,} tokens"
            progress.step(number, len(passages), title)
            told: dict[Configuration, Told] = {}
            for scorer, served in scorers:
                for configuration in served:
                    told[configuration] = self._tell(scorer, configuration, passage.tokens)
                    progress.advance(len(told) / len(self.configurations))
            in_order = {one: told[one] for one in self.configurations}
            yield PassageResult(passage.id, passage.task, len(passage.tokens), in_order)

    def _tell(self, scorer: Scorer, configuration: Configuration, tokens: tuple[int, ...]) -> Told:
        budget, cutter = 0, None
        if configuration.keep is not None:
            pages = needs_whole_pages(self.configurations)
            budget = budget_of(configuration.keep, len(tokens), pages)
            cutter = scorer.cutters[configuration.policy]
        nats = []
        with scorer.begun(tokens[: self.chunk]) as cache:
            scorer.read(cache, self.chunk)
            while cache.num_cached < len(tokens):
                if cutter is not None:
                    cutter.cut(cache, scorer.cache, Cut(cache.num_cached, budget, reads_on=True))
                begin = cache.num_cached
                cache.tokens += tokens[begin : begin + self.chunk]
                (logits,) = scorer.logits((cache, len(cache.tokens) - begin))
                following = tokens[begin + 1 : begin + 1 + len(logits)]
                nats.append(-log_likelihoods(logits[: len(following)], np.array(following)))
            kept, kv_bytes = cache.mean_length, scorer.cache.bytes_of(cache)
        return Told(budget, float(np.concatenate(nats).mean()), kept, kv_bytes)
