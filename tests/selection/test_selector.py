"""A selector on worked caches: what it keeps, what it needs to know, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import ArrayLike

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.selection import ImportanceMethod, Observation, Selector
from ov_kvcrush.selection.importance import H2O, SnapKV
from ov_kvcrush.selection.observation import Floats


def flat_cache(
    attention: ArrayLike, num_heads: int = 1, distinctiveness: ArrayLike | None = None
) -> Observation:
    """A cache that was never cut: every head holds the same tokens."""

    def rows(values: ArrayLike) -> Floats:
        return np.atleast_2d(np.array(values, dtype=np.float32))

    measured = rows(attention)
    positions = np.tile(np.arange(measured.shape[1], dtype=np.int32), (num_heads, 1))
    distinct = None if distinctiveness is None else rows(distinctiveness)
    return Observation(measured, positions, distinct)


def test_a_worked_cut() -> None:
    # Slot              0  1  2  3  4  5  6  7  8  9
    head_0 = np.array([[9, 8, 1, 7, 2, 6, 3, 5, 4, 9]])
    head_1 = np.array([[9, 1, 8, 2, 7, 3, 6, 4, 5, 9]])
    # The middle is slots 1 … 8, and its half four tokens: head 0 marks 1, 3, 5, 7 (8, 7, 6, 5),
    # head 1 marks 2, 4, 6, 8. Every token is marked once: distance 1 from zeros, so slots order.
    observation = flat_cache(np.concatenate([head_0, head_1]), num_heads=2)
    selector = Selector(SnapKV(kernel_size=1), 1, 1, representative_share=0.5)
    # Six: start, recent, two important, two representatives: first and last of what is left.
    assert selector.select(observation, 6).tolist() == [
        [0, 1, 2, 3, 8, 9],  # important 1 and 3; of 2 4 5 6 7 8 the ends
        [0, 1, 2, 4, 8, 9],  # important 2 and 4; of 1 3 5 6 7 8 the ends
    ]


def test_a_head_may_represent_what_another_head_keeps_as_important() -> None:
    # Head 0 keeps slot 0, so does not take it again; head 1 may take it.
    observation = flat_cache(
        [[5, 1, 1, 1], [1, 1, 1, 5]], num_heads=2, distinctiveness=[[4, 3, 2, 1]] * 2
    )
    selector = Selector(SnapKV(kernel_size=1), 0, 0, "distinct", representative_share=0.5)
    assert selector.select(observation, 2).tolist() == [[0, 1], [0, 3]]


def test_with_fewer_candidates_than_representatives_all_are_kept() -> None:
    # Middle budget 8, of which 6 representatives; 6 middle tokens, 2 important: 4 candidates.
    selector = Selector(SnapKV(kernel_size=1), 2, 2, representative_share=0.75)
    assert selector.select(flat_cache(np.arange(10)), 12).tolist() == [list(range(10))]


def test_distinct_takes_the_most_distinct_keys_that_are_not_important() -> None:
    observation = flat_cache([0, 0, 9, 0, 0, 0], distinctiveness=[-0.9, -0.1, 0.5, -0.5, -0.1, 0.2])
    selector = Selector(SnapKV(kernel_size=1), 0, 0, "distinct", representative_share=0.67)
    # 5 is the most distinct, 1 ties with 4 and comes first.
    assert selector.select(observation, 3).tolist() == [[1, 2, 5]]


def test_the_sinks_attention_does_not_spread_into_the_middle() -> None:
    observation = flat_cache([100, 0, 0, 0, 0, 1, 0, 0, 0, 100])
    selector = Selector(SnapKV(kernel_size=3), 1, 1, "none")
    assert selector.select(observation, 5).tolist() == [[0, 4, 5, 6, 9]]


def test_a_budget_of_start_and_recent_alone_keeps_just_those() -> None:
    selector = Selector(SnapKV(kernel_size=1), 2, 1)
    assert selector.select(flat_cache(np.arange(8)), 3).tolist() == [[0, 1, 7]]


def test_a_budget_below_start_and_recent_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_cache_size 2 has no room"):
        Selector(SnapKV(kernel_size=1), 2, 1).select(flat_cache(np.arange(8)), 2)


def test_a_missing_distinctiveness_is_an_error() -> None:
    selector = Selector(SnapKV(kernel_size=1), 0, 0, "distinct")
    with pytest.raises(ConfigError, match="not measured"):
        selector.select(flat_cache(np.arange(8)), 4)


def test_distinctiveness_is_asked_for_only_where_it_is_read() -> None:
    assert Selector(SnapKV(), 0, 0, "distinct").needs_distinctiveness
    assert not Selector(SnapKV(), 0, 0, "distinct", 0.0).needs_distinctiveness
    assert not Selector(SnapKV(), 0, 0, "rank").needs_distinctiveness
    assert not Selector(SnapKV(), 0, 0, "none").needs_distinctiveness


@pytest.mark.parametrize("page_size", [1, 2])
@pytest.mark.parametrize("rule", ["distinct", "even", "random"])
def test_a_rule_that_has_all_and_reads_no_score_needs_no_attention(
    rule: str, page_size: int
) -> None:
    distinct = np.random.default_rng(0).normal(size=(1, 12))
    unseen = flat_cache(np.zeros(12), distinctiveness=distinct)
    unseen = Observation(None, unseen.positions, unseen.distinctiveness)
    selector = Selector(H2O(), 2, 2, rule, 1.0, page_size=page_size)
    assert (selector.num_window_queries, selector.needs_accumulation) == (0, False)
    slots = selector.select(unseen, 8)
    assert slots.shape == (1, 8)
    if rule == "distinct" and page_size == 1:
        middle = distinct[0, 2:10]
        assert set(slots[0, 2:6] - 2) == set(np.argsort(-middle, kind="stable")[:4])


def test_rules_that_read_scores_need_them_even_when_they_have_all() -> None:
    for rule in ("none", "rank", "bucket_distinct"):
        assert Selector(SnapKV(), 0, 0, rule, 1.0).num_window_queries == 16


def test_an_importance_method_is_one_dataclass_with_a_score() -> None:
    @dataclass(frozen=True)
    class MostDistinct(ImportanceMethod):
        needs_distinctiveness: ClassVar[bool] = True

        def score(self, middle: Observation) -> Floats:
            return middle.need("distinctiveness")

    selector = Selector(MostDistinct(), 1, 1, "none")
    assert selector.needs_distinctiveness
    observation = flat_cache(np.zeros(6), distinctiveness=[9, 1, -5, 4, 3, 9])
    assert selector.select(observation, 4).tolist() == [[0, 3, 4, 5]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"representatives": "ranks"}, "representatives 'ranks' is not known\nDid you mean 'rank'"),
        ({"anchor": "meen"}, "anchor 'meen' is not known\nDid you mean 'mean'"),
        ({"signature_heads": "both"}, "signature_heads 'both' is not known\nKnown: kv, query"),
        ({"representative_share": 1.5}, "representative_share is 1.5, outside 0 to 1"),
        ({"signature_fraction": -0.5}, "signature_fraction is -0.5, outside 0 to 1"),
        ({"start_size": -1}, "start_size is -1, below 0"),
        ({"recent_size": -1}, "recent_size is -1, below 0"),
        ({"seed": -1}, "seed is -1, below 0"),
        ({"page_size": 0}, "page_size is 0, below 1"),
    ],
)
def test_a_selector_refuses_settings_it_could_not_follow(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Selector(SnapKV(), **({"start_size": 0, "recent_size": 0} | settings))
