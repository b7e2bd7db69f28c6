"""Samples of generated tasks: of any length, as many as are wanted, the same ones for a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Protocol

from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.evaluation.suites.generating.fitting import fit
from ov_kvcrush.evaluation.suites.sample import Sample


class Maker(Protocol):
    """A task: makes its samples."""

    def __call__(self, random: Random, amount: int) -> Sample:
        """A sample with ``amount`` units of filler, whose id and task are both the task's name.

        What ``random`` draws before the filler must not depend on ``amount``: the same facts and
        questions then stand in the sample, however long it is.
        """
        ...


def make_samples(
    makers: Mapping[str, Maker],
    length: int,
    count: Callable[[str], int],
    num_samples: int,
    seed: int = 0,
    tasks: Sequence[str] = (),
) -> Iterator[Sample]:
    """Samples of ``length`` tokens, one of each task after the other.

    The same for the same seed, length and tokenizer; a sample does not depend on how many others
    there are.

    Args:
        makers: the tasks there are, by name.
        length: tokens of a sample at most, with room for its answers; a chat template adds its own.
        count: tokens of a text. It must not cut off long texts.
        num_samples: of each task.
        seed: of all random choices.
        tasks: names of those wanted; all where there are none.

    Raises:
        ConfigError: an unknown task, at once; when its turn comes, a task that needs more tokens.
    """
    for task in tasks:
        if task not in makers:
            raise ConfigError(f"unknown task {task!r}", did_you_mean(task, makers))
    names = list(dict.fromkeys(tasks)) or list(makers)
    return (
        _make(makers[task], f"{seed}:{task}:{number}", length, count, number)
        for number in range(num_samples)
        for task in names
    )


def _make(maker: Maker, seed: str, length: int, count: Callable[[str], int], number: int) -> Sample:
    make = partial(_draw, maker, seed)
    sample = fit(make, count, length)
    return replace(sample, id=f"{sample.task}-{length}-{number}")


def _draw(maker: Maker, seed: str, amount: int) -> Sample:
    # A generator of its own each time, so that amounts can be tried in any order.
    return maker(Random(seed), amount)
