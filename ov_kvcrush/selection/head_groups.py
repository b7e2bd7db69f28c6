"""Which KV heads of a layer share a cache: those of like shares, in a few groups.

Heads that share one hold as many tokens, so what a group loses is what its heads' shares differ:
the groups are those with the least squares around their means. In one dimension such groups lie
side by side in sorted order, and the best of them can be found for certain (Fisher, "On grouping
for maximum homogeneity", 1958).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

MOST_GROUPS = 4
"""Groups of a layer: what another one wins in budget, more attention nodes cost in time."""

MOST_MISPLACED = 0.05
"""Part of a budget that groups may leave with the wrong heads."""

# Heads whose shares differ by less, as a part of the larger one, are one to a budget.
_ALIKE = 0.01

Groups = tuple[tuple[int, ...], ...]
"""Heads that share a cache; ascending, and groups in the order of their first heads."""


def group_heads(shares: Sequence[float], most: int = MOST_GROUPS) -> Groups:
    """Groups of the heads of one layer, every head in one of them.

    Heads whose shares differ by 1 % or less are always together. A layer of up to ``most`` kinds of
    heads has a group for each.

    Args:
        shares: of a budget, by head.
        most: groups there may be, 1 or more.
    """
    kinds = _alike(shares)
    if len(kinds) > most:
        weights = np.array([len(kind) for kind in kinds], np.float64)
        means = np.array([np.mean([shares[head] for head in kind]) for kind in kinds])
        kinds = [
            [head for kind in kinds[begin:end] for head in kind]
            for begin, end in pairwise(_bounds(means, weights, most))
        ]
    return tuple(sorted(tuple(sorted(kind)) for kind in kinds))


def group_all_heads(
    shares: Sequence[Sequence[float]],
    most: int = MOST_GROUPS,
    misplaced: float = MOST_MISPLACED,
) -> tuple[Groups, ...]:
    """By layer, groups of its heads: as few as leave little of the budget in the wrong place.

    A group is cut to the mean of its heads' shares. What that takes from the heads that are worth
    more than the mean is in the wrong place; where the heads of a layer are worth about as much,
    that is little, and another group would only cost time. So layers are divided one after the
    other, always the one in which another group moves most.

    Args:
        shares: by layer of the model and KV head, of a budget.
        most: groups of a layer, 1 or more.
        misplaced: part of the whole budget that may be in the wrong place.
    """
    choices = [[group_heads(layer, count) for count in range(1, most + 1)] for layer in shares]
    costs = np.array(
        [
            [_misplaced(layer, groups) for groups in by_count]
            for layer, by_count in zip(shares, choices, strict=True)
        ]
    )
    counts = np.zeros(len(shares), np.int64)  # of groups, less one
    every = np.arange(len(shares))
    allowed = misplaced * sum(map(sum, shares))
    while (now := costs[every, counts]).sum() > allowed:
        # What each layer would win for each group more; a second one alone may win nothing.
        more = np.arange(most) - counts[:, None]
        wins = np.where(more > 0, (now[:, None] - costs) / np.maximum(more, 1), 0.0)
        layer, count = np.unravel_index(wins.argmax(), wins.shape)
        if wins[layer, count] <= 0:
            break
        counts[layer] = count
    return tuple(by_count[count] for by_count, count in zip(choices, counts, strict=True))


def _misplaced(shares: Sequence[float], groups: Groups) -> float:
    """What heads worth more than the mean of their group lose to the others of it."""
    apart = (np.array([shares[head] for head in group]) for group in groups)
    return float(sum(np.maximum(group - group.mean(), 0).sum() for group in apart))


def _alike(shares: Sequence[float]) -> list[list[int]]:
    """Heads in ascending order of their shares, those together that are alike."""
    kinds: list[list[int]] = []
    for head in sorted(range(len(shares)), key=lambda head: (shares[head], head)):
        if kinds and shares[head] * (1 - _ALIKE) <= shares[kinds[-1][-1]]:
            kinds[-1].append(head)
        else:
            kinds.append([head])
    return kinds


def _bounds(values: Doubles, weights: Doubles, most: int) -> list[int]:
    """Where ``most`` groups of ascending ``values`` begin, and the end: the least squares in sum.

    Args:
        values: more than ``most``.
        weights: how often each counts.
    """
    count = len(values)
    costs = _costs(values, weights)
    # best[n]: the least that the first n values cost, in as many groups as there are so far.
    best = np.append(0.0, costs[0, 1:])
    begins = []
    for _ in range(most - 1):
        # Of each number of values, where the last of their groups begins.
        totals = best[:, None] + costs
        begins.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    bounds = [count]
    for last in reversed(begins):
        bounds.append(int(last[bounds[-1]]))
    return list(dict.fromkeys([*bounds, 0]))[::-1]


def _costs(values: Doubles, weights: Doubles) -> Doubles:
    """``[begin, end]``, squares of what lies between two places around its mean; inf for none."""
    centred = values - np.average(values, weights=weights)  # of small numbers less is cancelled out
    sums = np.cumsum([weights, weights * centred, weights * centred**2], axis=1)
    sums = np.pad(sums, ((0, 0), (1, 0)))
    weight, first, second = sums[:, None, :] - sums[:, :, None]
    some = weight > 0
    costs = second - first**2 / np.where(some, weight, 1)
    return np.where(some, np.maximum(costs, 0), np.inf)
