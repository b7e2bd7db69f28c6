"""Differences of scores to a named configuration, and whether they are more than chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from ov_kvcrush.evaluation.stats import Difference, paired_mean_difference

INSIDE = "inside the interval"
"""What a difference is called whose interval holds 0."""


@dataclass(frozen=True)
class Comparison:
    """One configuration beside the one it is compared with.

    Attributes:
        setting: when the cache was cut.
        ours: what is compared.
        theirs: with what.
        by_turns: the difference in points of score × 100, by ``SuiteResults.turns``; None where
            there is no sample that both have.
    """

    setting: str
    ours: Configuration
    theirs: Configuration
    by_turns: dict[str, Difference | None]


def comparisons(results: SuiteResults, compare: str) -> list[Comparison]:
    """Every configuration's difference to ``compare``, by paired bootstrap over samples.

    Args:
        results: of all samples.
        compare: name of a policy, which each is compared with at its own precision and, where the
            policy has one, budget; or of one configuration, such as ``snapkv 1/4``.

    Raises:
        ConfigError: neither was measured.
    """
    pairs = list(_pairs(results, compare))
    return [
        Comparison(
            setting,
            ours,
            theirs,
            {turns: _difference(results, setting, ours, theirs, turns) for turns in results.turns},
        )
        for setting in results.settings
        for ours, theirs in pairs
        if {ours, theirs} <= set(results.measured(setting))
    ]


def _pairs(results: SuiteResults, compare: str) -> Iterator[tuple[Configuration, Configuration]]:
    # Of two engines' full caches the first one, which all figures are compared with.
    others = {
        (c.keep, c.precision): c for c in reversed(results.configurations) if c.policy == compare
    }
    named = {c.name: c for c in results.configurations}
    if not others and compare not in named:
        names = [*dict.fromkeys(c.policy for c in results.configurations), *named]
        raise ConfigError(f"{compare!r} was not measured", did_you_mean(compare, names))
    for ours in results.configurations:
        theirs = (
            others.get((ours.keep, ours.precision)) or others.get((None, ours.precision))
            if others
            else named[compare]
        )
        if theirs is not None and theirs is not ours:
            yield ours, theirs


def _difference(
    results: SuiteResults, setting: str, ours: Configuration, theirs: Configuration, turns: str
) -> Difference | None:
    def points(configuration: Configuration) -> list[float | None]:
        scores = results.scores(setting, configuration, turns)
        return [None if score is None else 100 * score for score in scores]

    return paired_mean_difference(points(ours), points(theirs))
