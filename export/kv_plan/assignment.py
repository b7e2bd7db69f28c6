"""Which precision each layer gets: the least harm for the bytes, or the fewest bytes for the harm.

Harm adds up over layers and a compiled model has few parts, so this is a knapsack with one choice a
layer, solved exactly: for every number of parts and every last choice, all the pairs of bytes and
harm are kept that are not beaten in both by another pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

MOST_PARTS = 5
"""Parts a plan is split into at most: each costs a decode step some time (docs/kv-plan.md)."""


@dataclass(frozen=True)
class Choice:
    """One precision for one layer.

    Attributes:
        num_bytes: of a page or a token, the same unit for all choices.
        harm: what it does to the model's output, in nats; not negative.
    """

    num_bytes: float
    harm: float


@dataclass(frozen=True)
class Assignment:
    """A choice for every layer, by number, and what they add up to."""

    chosen: tuple[int, ...]
    num_bytes: float
    harm: float


def best_assignments(
    choices: Sequence[Sequence[Choice]], most_parts: int = MOST_PARTS
) -> list[Assignment]:
    """All assignments that are not beaten in both bytes and harm, the smallest first.

    Args:
        choices: by layer, the same precisions in the same order for each.
        most_parts: runs of equal choices there may be at most.
    """
    fronts = {(1, n): [Assignment((n,), c.num_bytes, c.harm)] for n, c in enumerate(choices[0])}
    for layer in choices[1:]:
        grown = defaultdict[tuple[int, int], list[Assignment]](list)
        for (parts, last), front in fronts.items():
            for number, choice in enumerate(layer):
                needed = parts + (number != last)
                if needed <= most_parts:
                    grown[needed, number] += [
                        Assignment(
                            (*one.chosen, number),
                            one.num_bytes + choice.num_bytes,
                            one.harm + choice.harm,
                        )
                        for one in front
                    ]
        fronts = {state: _unbeaten(found) for state, found in grown.items()}
    return _unbeaten([one for front in fronts.values() for one in front])


def _unbeaten(found: list[Assignment]) -> list[Assignment]:
    front: list[Assignment] = []
    for one in sorted(found, key=lambda one: (one.num_bytes, one.harm, one.chosen)):
        if not front or one.harm < front[-1].harm:
            front.append(one)
    return front
