"""Asks one sample after the other of every cache, and goes on where an earlier run was."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.asking.asker import Asker
from ov_kvcrush.evaluation.asking.caches import Caches
from ov_kvcrush.evaluation.asking.choosing import Chosen, choose_samples
from ov_kvcrush.evaluation.asking.dialogue import Score
from ov_kvcrush.evaluation.asking.genai_asker import SETTING as GENAI_SETTING
from ov_kvcrush.evaluation.asking.genai_asker import GenaiAsker
from ov_kvcrush.evaluation.asking.journal import Journal
from ov_kvcrush.evaluation.asking.rendering import SampleReader
from ov_kvcrush.evaluation.asking.request import make_request
from ov_kvcrush.evaluation.asking.results import SampleResult
from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.fidelity.budgets import PREFILL_FACTOR, needs_whole_pages
from ov_kvcrush.evaluation.fidelity.cut_forks import CutRule
from ov_kvcrush.evaluation.fidelity.free_running import GenaiAnswers, end_tokens
from ov_kvcrush.evaluation.fidelity.results import SETTINGS
from ov_kvcrush.evaluation.fidelity.scorers import ScorerSettings
from ov_kvcrush.evaluation.suites.sample import Sample
from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.pipeline.loaded_model import model_context_length
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder
from ov_kvcrush.pipeline.special_tokens import added_tokens
from ov_kvcrush.precisions import AUTO
from ov_kvcrush.progress import Progress

CHUNK = 1024
"""Tokens that are read at once, and between two cuts while reading."""

TOGETHER = 16
"""Caches that are held, and answer, at the same time."""


@dataclass(frozen=True)
class AskingRun:
    """A model on a device, and how it is asked.

    Attributes:
        model_dir: exported model.
        configurations: of the cache, of any engine; no two have the same name.
        score: of an answer to a question, by the question's metric.
        settings: of ``SETTINGS``.
        device: name of the device; other engines than openvino_genai's run on the CPU alone.
        properties: of the plugin.
        prefill_factor: what stays while a prompt is read, of what stays in the end; 0 is all.
        chunk: tokens that are read at once.
        decode_precision: as ``LLMPipeline`` has it.
        together: caches that are held, and answer, at the same time.
    """

    model_dir: Path
    configurations: Sequence[Configuration]
    score: Score
    settings: Sequence[str] = SETTINGS
    device: str = "CPU"
    properties: Mapping[str, str] | None = None
    prefill_factor: float = PREFILL_FACTOR
    chunk: int = CHUNK
    decode_precision: str = AUTO
    together: int = TOGETHER

    def __post_init__(self) -> None:
        """Refuse what cannot be told apart.

        Raises:
            ConfigError: two configurations have the same name.
        """
        names = [configuration.name for configuration in self.configurations]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{name} is asked for twice", "Give each policy and budget once.")

    def request(self, samples: Sequence[Sample], suite: Mapping[str, Any]) -> dict[str, Any]:
        """What results depend on, for :func:`open_journal`.

        Args:
            samples: all that will be asked.
            suite: arguments they were chosen by, as JSON values.

        Raises:
            ModelError: there is no model.
        """
        how = {
            "settings": list(self.settings),
            "device": self.device,
            "properties": dict(self.properties or {}),
            "prefill_factor": self.prefill_factor,
            "chunk": self.chunk,
            "decode_precision": self.decode_precision,
            "together": self.together,
            "suite": dict(suite),
        }
        return make_request(self.model_dir, self.configurations, samples, how)

    def run(
        self, samples: Sequence[Sample], progress: Progress, journal: Journal | None = None
    ) -> Generator[SampleResult, None, None]:
        """Ask one sample after the other; the result of each once it is there, and written down.

        Samples that do not fit the model's context, or are too short for a budget, are left out.
        Those that the journal has are not asked again, and come first.

        Args:
            samples: to be asked, in their order.
            progress: is told of the samples that are left as of one step.
            journal: of the same :meth:`request`; None keeps nothing.

        Raises:
            ConfigError: all samples are left out.
            OVKVCrushError: one cannot be put through the chat template; as the engines, when they
                are made or run.
            KeyboardInterrupt: Ctrl+C.
        """
        reader = SampleReader(
            PromptEncoder(load_tokenizer(self.model_dir), added_tokens(self.model_dir))
        )
        context = model_context_length(self.model_dir)
        chosen = choose_samples(reader, samples, self.configurations, context, progress.note)
        done = [] if journal is None else list(journal.results)
        yield from done
        left = chosen[len(done) :]
        if not left:
            return
        what = f"samples {len(done) + 1} to {len(chosen)}"
        progress.step(1, 1, f"{what}, each of {len(self.configurations)} caches")
        sizes = [one.most_tokens for one in left]
        caches = self._caches(reader, max(sizes))
        for number, one in enumerate(left):
            result = self._ask(reader, caches, one, partial(_advance, progress, sizes, number))
            if journal is not None:
                journal.append(result)
            yield result

    def _ask(
        self,
        reader: SampleReader,
        caches: Caches,
        chosen: Chosen,
        on_progress: Callable[[float], None],
    ) -> SampleResult:
        on_progress(0)
        sample, prompt = chosen.sample, reader.read(chosen.sample)
        if prompt is None:
            raise RuntimeError(f"{sample.id} was chosen and cannot be read")
        places = {one.name: place for place, one in enumerate(self.configurations)}
        cells = caches.ask(prompt, on_progress)
        cells.sort(key=lambda cell: places[cell.configuration])
        return SampleResult(sample.id, sample.task, len(prompt.tokens), tuple(cells))

    def _caches(self, reader: SampleReader, most_tokens: int) -> Caches:
        """The models, for conversations of at most ``most_tokens``."""
        tokenizer = reader.encoder.tokenizer
        ends, settings = end_tokens(self.model_dir, tokenizer), tuple(self.settings)
        rule = CutRule(self.prefill_factor, needs_whole_pages(self.configurations))
        scorers = ScorerSettings(
            self.model_dir, self.device, self.properties, self.chunk, self.decode_precision
        ).make(self.configurations, Asker.pool_size(most_tokens, self.together))
        answers = GenaiAnswers(
            self.model_dir, tokenizer, self.device, dict(self.properties or {}), self.chunk
        )
        return Caches(
            [
                (Asker(scorer, reader, ends, self.score, settings, rule, self.together), served)
                for scorer, served in scorers
            ],
            GenaiAsker(answers, reader, ends, self.score),
            [c for c in self.configurations if c.engine == "genai" and GENAI_SETTING in settings],
        )


def _advance(progress: Progress, sizes: Sequence[int], number: int, share: float) -> None:
    """Tell that so much of sample ``number`` is done; each counts as its tokens do."""
    progress.advance((sum(sizes[:number]) + share * sizes[number]) / sum(sizes))
