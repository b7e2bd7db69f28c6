"""Which samples can be asked: those that fit the model's context, and every budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.asking.rendering import SampleReader
from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.fidelity.budgets import leaves_nothing, needs_whole_pages
from ov_kvcrush.evaluation.suites.sample import Sample


@dataclass(frozen=True)
class Chosen:
    """A sample that can be asked. Its tokens are read when it is: of many they take much memory.

    Attributes:
        sample: what is asked.
        most_tokens: of the conversation with all its answers, at most.
    """

    sample: Sample
    most_tokens: int


def choose_samples(
    reader: SampleReader,
    samples: Sequence[Sample],
    configurations: Sequence[Configuration],
    context: int,
    note: Callable[[str], None],
) -> list[Chosen]:
    """Those of ``samples`` that can be asked, in their order.

    Args:
        reader: of the model.
        samples: that are wanted.
        configurations: of the cache, whose budgets have to leave something to choose.
        context: tokens the model reads; 0 where they are not bounded.
        note: is told how many are left out, and why.

    Raises:
        ConfigError: none can be asked.
        OVKVCrushError: as :meth:`SampleReader.read`.
    """
    chosen = list[Chosen]()
    left_out = {"longer than the model's context": 0, "too short for the budgets": 0}
    too_long, too_short = left_out
    whole_pages = needs_whole_pages(configurations)
    for sample in samples:
        prompt = reader.read(sample)
        if prompt is None or 0 < context < prompt.most_tokens:
            left_out[too_long] += 1
        elif leaves_nothing(configurations, len(prompt.tokens), whole_pages):
            left_out[too_short] += 1
        else:
            chosen.append(Chosen(sample, prompt.most_tokens))
    reasons = [f"{count} {reason}" for reason, count in left_out.items() if count]
    if not chosen:
        raise ConfigError(
            f"no sample is left to ask{': ' if reasons else ''}{', '.join(reasons)}",
            "Give samples of other lengths, or keep more.",
        )
    if reasons:
        note(f"left out: {', '.join(reasons)}")
    return chosen
