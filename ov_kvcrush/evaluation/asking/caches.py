"""All caches of a run: the models they are on, and who asks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ov_kvcrush.evaluation.asking.asker import Asker
from ov_kvcrush.evaluation.asking.genai_asker import GenaiAsker
from ov_kvcrush.evaluation.asking.rendering import SamplePrompt
from ov_kvcrush.evaluation.asking.results import Cell
from ov_kvcrush.evaluation.configurations import Configuration


@dataclass(frozen=True)
class Caches:
    """Those of every configuration.

    Attributes:
        askers: of our own engine, with the configurations that each serves.
        genai_asker: of openvino_genai.
        genai_configurations: that it is asked with.
    """

    askers: Sequence[tuple[Asker, Sequence[Configuration]]]
    genai_asker: GenaiAsker
    genai_configurations: Sequence[Configuration]

    def ask(self, prompt: SamplePrompt, on_progress: Callable[[float], None]) -> list[Cell]:
        """The cells of a sample, engine by engine.

        Args:
            prompt: of the sample.
            on_progress: told what share is done, 0 to 1.

        Raises:
            OVKVCrushError: as the engines, when they are made or run.
        """
        cells = list[Cell]()
        num_parts = len(self.askers) + len(self.genai_configurations)

        def part(number: int) -> Callable[[float], None]:
            return lambda share: on_progress((number + share) / num_parts)

        for number, (asker, configurations) in enumerate(self.askers):
            cells += asker.ask(prompt, configurations, part(number))
        for number, configuration in enumerate(self.genai_configurations, start=len(self.askers)):
            cells.append(self.genai_asker.ask(prompt, configuration))
            part(number)(1)
        return cells
