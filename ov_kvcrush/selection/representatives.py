"""Representative rules: which of the tokens that are not important stand for the evicted ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.selection.observation import Floats
from ov_kvcrush.selection.ordering import Mask, ascending, highest, mask_of, spread

# Head behaviours told apart by ``bucket_distinct``.
_NUM_BUCKETS = 8
# What distinctiveness counts beside the gate in ``gate_distinct`` (docs/selection.md).
_DISTINCT_BESIDE_GATE = 0.2


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a rule may look at to choose representatives; pages are tokens at token granularity.

    Attributes:
        importance: scores [H, pages], the same as chose the important ones.
        taken: mask [H, pages] of those each head keeps as important, as many in every head: none
            may be chosen again.
        distances: gives the Hamming distances [H, pages] to the anchor; computed when called.
        distinctiveness: gives the keys' distinctiveness [H, pages], summed over each page.
        gate: gives the gate's scores [H, pages], the highest of each page.
        seed: the selector's.
    """

    importance: Floats
    taken: Mask
    distances: Callable[[], NDArray[np.int32]]
    distinctiveness: Callable[[], Floats]
    gate: Callable[[], Floats]
    seed: int


@dataclass(frozen=True)
class RepresentativeRule:
    """How representatives are chosen.

    Attributes:
        choose: candidates, count -> mask [H, pages] with ``count`` pages in every row, none of
            those taken; there are more candidates than ``count``.
        needs_distinctiveness: whether ``choose`` looks at the keys' distinctiveness.
        needs_gate: whether ``choose`` looks at what the model's gate said.
        needs_importance: whether ``choose`` looks at scores, or at distances, which are made of
            them.
        leads: whether the rule alone keeps a text better than importance does, as long as nobody
            has asked about it.
    """

    choose: Callable[[Candidates, int], Mask]
    needs_distinctiveness: bool = False
    needs_gate: bool = False
    needs_importance: bool = True
    leads: bool = False


def _next_important(candidates: Candidates, count: int) -> Mask:
    return highest(candidates.importance, count, excluded=candidates.taken)


def _evenly_ranked(candidates: Candidates, count: int) -> Mask:
    return spread(candidates.distances(), count, excluded=candidates.taken)


def _most_distinct(candidates: Candidates, count: int) -> Mask:
    return highest(candidates.distinctiveness(), count, excluded=candidates.taken)


def _most_wanted(candidates: Candidates, count: int) -> Mask:
    return highest(candidates.gate(), count, excluded=candidates.taken)


def _most_wanted_and_distinct(candidates: Candidates, count: int) -> Mask:
    distinct = _standardized(candidates.distinctiveness())
    scores = _standardized(candidates.gate()) + np.float32(_DISTINCT_BESIDE_GATE) * distinct
    return highest(scores, count, excluded=candidates.taken)


def _standardized(scores: Floats) -> Floats:
    """Every row with mean 0 and deviation 1; zeros where all of a row are alike."""
    around = scores - scores.mean(axis=1, keepdims=True)
    deviation = around.std(axis=1, keepdims=True)
    return np.asarray(around / np.where(deviation > 0, deviation, 1), dtype=np.float32)


def _most_distinct_of_buckets(candidates: Candidates, count: int) -> Mask:
    order = ascending(candidates.distances(), excluded=candidates.taken)
    distinct = np.take_along_axis(candidates.distinctiveness(), order, axis=1)
    chosen = np.zeros(order.shape, dtype=np.bool_)
    num_candidates, filled = order.shape[1], 0
    for bucket in range(1, _NUM_BUCKETS + 1):
        begin = num_candidates * (bucket - 1) // _NUM_BUCKETS
        end = num_candidates * bucket // _NUM_BUCKETS
        # What a bucket is too small for, the next one makes up; the last has room for all.
        quota = min(count * bucket // _NUM_BUCKETS - filled, end - begin)
        chosen[:, begin:end] = highest(distinct[:, begin:end], quota)
        filled += quota
    return mask_of(order[chosen].reshape(len(order), count), candidates.taken.shape[1])


def _evenly_placed(candidates: Candidates, count: int) -> Mask:
    alike = np.zeros(candidates.taken.shape, dtype=np.int32)
    return spread(alike, count, excluded=candidates.taken)


def _any(candidates: Candidates, count: int) -> Mask:
    draw = np.random.default_rng(candidates.seed)
    scores = draw.random(candidates.taken.shape, dtype=np.float32)
    return highest(scores, count, excluded=candidates.taken)


REPRESENTATIVE_RULES: dict[str, RepresentativeRule] = {
    # Their part of the budget goes on down the importance order: importance alone.
    "none": RepresentativeRule(_next_important),
    # The paper's: evenly spaced in the order of distance to the anchor, both ends included.
    "rank": RepresentativeRule(_evenly_ranked),
    # The keys least like their head's mean key.
    "distinct": RepresentativeRule(
        _most_distinct, needs_distinctiveness=True, needs_importance=False, leads=True
    ),
    # Those the model's gate expects later text to look at (KVzap, arXiv 2601.07891).
    "gate": RepresentativeRule(_most_wanted, needs_gate=True, needs_importance=False),
    # The same with a little of distinctiveness, each on a head's own scale.
    "gate_distinct": RepresentativeRule(
        _most_wanted_and_distinct,
        needs_distinctiveness=True,
        needs_gate=True,
        needs_importance=False,
    ),
    # Buckets of equal head behaviour (the same order in equal parts), the most distinct of each.
    "bucket_distinct": RepresentativeRule(_most_distinct_of_buckets, needs_distinctiveness=True),
    # Controls: evenly spaced in the text, and any.
    "even": RepresentativeRule(_evenly_placed, needs_importance=False),
    "random": RepresentativeRule(_any, needs_importance=False),
}
