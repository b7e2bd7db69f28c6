"""The suites by name, and the samples that are asked of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ov_kvcrush.errors import ConfigError, PromptError, did_you_mean
from ov_kvcrush.evaluation.dataset import half_of
from ov_kvcrush.evaluation.rotation import one_of_each
from ov_kvcrush.evaluation.suites.generating.making import Maker, make_samples
from ov_kvcrush.evaluation.suites.longbench.samples import read_samples
from ov_kvcrush.evaluation.suites.longbench.truncation import truncate_middle
from ov_kvcrush.evaluation.suites.ruler.tasks import TASKS as RULER
from ov_kvcrush.evaluation.suites.sample import Sample
from ov_kvcrush.evaluation.suites.turns.tasks import TASKS as TURNS

LONGBENCH = "longbench"
GENERATED: dict[str, dict[str, Maker]] = {"ruler": RULER, "turns": TURNS}
SUITES = (LONGBENCH, *GENERATED)

LENGTH = 4096
"""Tokens of a generated sample, unless it is asked otherwise."""

NUM_SAMPLES = 5
"""Generated samples of each task and length, likewise."""

# A chat template's own tokens around a prompt, which generated samples leave room for.
_TEMPLATE_TOKENS = 64


@dataclass(frozen=True)
class SampleRequest:
    """Which samples are asked; what was left open is None or empty.

    Attributes:
        suite: of ``SUITES``.
        data: rows of LongBench, as its ``read_rows`` has them; None is the ones that ship.
        tasks: names.
        lengths: tokens of generated samples; of LongBench's prompts at most, one number.
        num_samples: of each generated task and length.
        seed: of all that is generated.
        split: half of LongBench's rows, as :func:`choose_examples` has it.
        limit: samples at most.
        template: which rows of LongBench go through the chat template.
    """

    suite: str
    data: Path | None = None
    tasks: Sequence[str] = ()
    lengths: Sequence[int] = ()
    num_samples: int = NUM_SAMPLES
    seed: int = 0
    split: str = "all"
    limit: int | None = None
    template: str = "auto"

    def samples(self, count: Callable[[str], int], note: Callable[[str], None]) -> list[Sample]:
        """They, in the order in which they are asked.

        Args:
            count: tokens of a text of any length.
            note: is told of samples that cannot be shortened to what was asked for.

        Raises:
            ConfigError: nothing is left, a task is not known, or a length is too short for one.
            OVKVCrushError: rows cannot be read.
        """
        if self.suite not in SUITES:
            raise ConfigError(f"unknown suite {self.suite!r}", did_you_mean(self.suite, SUITES))
        found = self._rows(count, note) if self.suite == LONGBENCH else self._generated(count)
        chosen = found[: self.limit]
        if not chosen:
            raise ConfigError("the filters leave no sample", "Widen --task or --split.")
        return chosen

    def _rows(self, count: Callable[[str], int], note: Callable[[str], None]) -> list[Sample]:
        samples = one_of_each(
            sample
            for sample in read_samples(self.data, self.tasks, self.template)
            if self.split in ("all", half_of(sample.id))
        )[: self.limit]
        if not self.lengths:
            return samples
        shortened = []
        for sample in samples:
            try:
                shortened.append(truncate_middle(sample, self.lengths[0], count))
            except PromptError as error:
                note(f"left out: {error.message}")
        return shortened

    def _generated(self, count: Callable[[str], int]) -> list[Sample]:
        makers = GENERATED[self.suite]
        return [
            sample
            for length in self.lengths or [LENGTH]
            for sample in make_samples(
                makers, length - _TEMPLATE_TOKENS, count, self.num_samples, self.seed, self.tasks
            )
        ]
