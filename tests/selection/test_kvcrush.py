from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ov_kvcrush.selection import (
    ANCHORS,
    REPRESENTATIVE_RULES,
    SIGNATURE_HEADS,
    Observation,
    Selector,
)
from ov_kvcrush.selection.importance import SnapKV
from tests.support import slow_selection


@dataclass(frozen=True)
class Cut:
    """A selector with a cache and a budget for it."""

    selector: Selector
    observation: Observation
    max_cache_size: int

    def select(self, **changed: Any) -> NDArray[np.int32]:
        selector = dataclasses.replace(self.selector, **changed)
        return selector.select(self.observation, self.max_cache_size)

    @property
    def num_slots(self) -> int:
        return int(self.observation.positions.shape[1])


@st.composite
def cuts(
    draw: st.DrawFn,
    /,
    page_sizes: tuple[int, ...] = (1, 2, 4),
    fits: bool | None = None,
    **fixed: Any,
) -> Cut:
    """Caches of few distinct scores, so that ties decide often.

    Attention is in whole numbers and groups are powers of two: every sum and mean is exact, and
    the reference may add in another order. ``fits``: whether the cache fits the budget.
    """
    page_size = draw(st.sampled_from(page_sizes))
    start, recent = draw(st.integers(0, 2)), draw(st.integers(0, 3))
    middle = draw(st.integers(1, 12))
    max_cache_size = (start + recent + middle) * page_size
    fits = draw(st.integers(0, 9)) == 0 if fits is None else fits
    sizes = (1, max_cache_size) if fits else (max_cache_size + 1, 3 * max_cache_size + 20)
    num_slots = draw(st.integers(*sizes))
    num_heads, group = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 4]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 3, 20, 10_000]))
    reach = draw(st.sampled_from([1, 1.3, 3]))
    positions = [
        np.sort(rng.choice(int(reach * num_slots), num_slots, replace=False))
        for _ in range(num_heads)
    ]
    observation = Observation(
        rng.integers(0, levels, (num_heads * group, num_slots)).astype(np.float32),
        np.array(positions, dtype=np.int32),
        rng.integers(-levels, levels, (num_heads, num_slots)).astype(np.float32),
        gate=rng.integers(-levels, levels, (num_heads, num_slots)).astype(np.float32),
    )
    settings: dict[str, Any] = {
        "representatives": draw(st.sampled_from(list(REPRESENTATIVE_RULES))),
        "representative_share": draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
        "anchor": draw(st.sampled_from(list(ANCHORS))),
        "signature_heads": draw(st.sampled_from(list(SIGNATURE_HEADS))),
        "signature_fraction": draw(st.sampled_from([0.25, 0.5, 0.75])),
        "seed": draw(st.integers(0, 3)),
    }
    selector = Selector(
        SnapKV(kernel_size=draw(st.sampled_from([1, 3, 7]))),
        start * page_size,
        recent * page_size,
        page_size=page_size,
        **(settings | fixed),
    )
    return Cut(selector, observation, max_cache_size)


@settings(max_examples=400)
@given(cut=cuts())
def test_the_selection_is_that_of_the_slow_reference(cut: Cut) -> None:
    selector, observation = cut.selector, cut.observation
    assert isinstance(selector.importance, SnapKV)
    wanted = slow_selection.select(
        observation.need("window_attention").tolist(),
        observation.positions.tolist(),
        observation.need("distinctiveness").tolist(),
        observation.need("gate").tolist(),
        cut.max_cache_size,
        kernel_size=selector.importance.kernel_size,
        **{
            field.name: getattr(selector, field.name)
            for field in dataclasses.fields(selector)
            if field.name != "importance"
        },
    )
    assert cut.select().tolist() == wanted


@pytest.mark.parametrize("signature_heads", list(SIGNATURE_HEADS))
@pytest.mark.parametrize("anchor", list(ANCHORS))
@pytest.mark.parametrize("page_size", [1, 32])
def test_a_long_cache_cut_before_is_selected_like_the_reference(
    page_size: int, anchor: str, signature_heads: str
) -> None:
    rng = np.random.default_rng(7)
    num_slots = 700
    observation = Observation(
        rng.integers(0, 50, (8, num_slots)).astype(np.float32),
        np.sort([rng.choice(2000, num_slots, replace=False) for _ in range(4)]).astype(np.int32),
    )
    selector = Selector(
        SnapKV(kernel_size=31),
        32,
        64,
        anchor=anchor,
        signature_heads=signature_heads,
        page_size=page_size,
    )
    wanted = slow_selection.select(
        observation.need("window_attention").tolist(),
        observation.positions.tolist(),
        [],
        [],
        320,
        kernel_size=31,
        start_size=32,
        recent_size=64,
        representatives="rank",
        representative_share=0.25,
        anchor=anchor,
        signature_heads=signature_heads,
        signature_fraction=0.5,
        seed=0,
        page_size=page_size,
    )
    assert selector.select(observation, 320).tolist() == wanted


@settings(max_examples=200)
@given(cut=cuts(fits=False))
def test_slots_ascend_and_start_and_recent_stay(cut: Cut) -> None:
    slots = cut.select()
    assert slots.dtype == np.int32
    assert (np.diff(slots, axis=1) > 0).all()
    start, recent = cut.selector.start_size, cut.selector.recent_size
    assert (slots[:, :start] == np.arange(start)).all()
    assert (slots[:, slots.shape[1] - recent :] == cut.num_slots - recent + np.arange(recent)).all()


@given(cut=cuts(page_sizes=(1,)))
def test_at_token_granularity_each_head_keeps_exactly_the_budget_or_all_it_holds(cut: Cut) -> None:
    num_heads = len(cut.observation.positions)
    assert cut.select().shape == (num_heads, min(cut.max_cache_size, cut.num_slots))


@given(cut=cuts(page_sizes=(2, 4, 32), fits=False))
def test_at_page_granularity_whole_pages_stay_within_the_budget(cut: Cut) -> None:
    slots, page_size = cut.select(), cut.selector.page_size
    assert cut.max_cache_size - page_size < slots.shape[1] <= cut.max_cache_size
    last_whole = cut.num_slots // page_size
    for row in slots:
        pages, tokens = np.unique(row // page_size, return_counts=True)
        assert (tokens[pages < last_whole] == page_size).all()


@given(cut=cuts(fits=True))
def test_a_cache_within_the_budget_keeps_every_slot(cut: Cut) -> None:
    num_heads = len(cut.observation.positions)
    assert cut.select().tolist() == [list(range(cut.num_slots))] * num_heads


@given(cut=cuts(fits=False, representatives="none"))
def test_importance_alone_keeps_just_the_top_scored(cut: Cut) -> None:
    selector, page_size = cut.selector, cut.selector.page_size
    end = (cut.num_slots - selector.recent_size) // page_size * page_size
    middle = cut.observation.slots(selector.start_size, end)
    scores = selector.importance.score(middle)
    scores = scores.reshape(len(scores), -1, page_size).sum(axis=2)
    for row, kept in zip(scores, cut.select(), strict=True):
        inside = kept[(kept >= selector.start_size) & (kept < end)][::page_size]
        stays = np.isin(np.arange(len(row)), (inside - selector.start_size) // page_size)
        assert row[stays].min(initial=np.inf) >= row[~stays].max()


@given(cut=cuts())
def test_a_share_of_nothing_is_the_importance_method_alone(cut: Cut) -> None:
    alone = cut.select(representatives="none")
    assert cut.select(representative_share=0.0).tobytes() == alone.tobytes()
    # … and "none" spends the whole budget on importance, whatever the share says.
    nothing = cut.select(representatives="none", representative_share=0.0)
    assert nothing.tobytes() == alone.tobytes()


@given(cut=cuts(fits=False))
def test_representatives_never_displace_the_important(cut: Cut) -> None:
    # The top B_imp stay whatever the rule: cut importance alone to a budget without B_rep.
    selector, page_size = cut.selector, cut.selector.page_size
    end = (cut.num_slots - selector.recent_size) // page_size * page_size
    fixed = selector.start_size + cut.num_slots - end
    num_pages = (cut.max_cache_size - fixed) // page_size
    num_important = num_pages - round(selector.representative_share * num_pages)
    important = dataclasses.replace(selector, representatives="none").select(
        cut.observation, fixed + num_important * page_size
    )
    for kept, wanted in zip(cut.select(), important, strict=True):
        assert np.isin(wanted, kept).all()


@given(cut=cuts())
def test_selecting_is_repeatable_and_leaves_the_observation_alone(cut: Cut) -> None:
    before = [
        cut.observation.need("window_attention").tobytes(),
        cut.observation.positions.tobytes(),
        cut.observation.need("distinctiveness").tobytes(),
    ]
    assert cut.select().tobytes() == cut.select().tobytes()
    assert before == [
        cut.observation.need("window_attention").tobytes(),
        cut.observation.positions.tobytes(),
        cut.observation.need("distinctiveness").tobytes(),
    ]


@given(cut=cuts(page_sizes=(1,), representatives="rank"))
def test_shifting_every_position_changes_nothing_at_token_granularity(cut: Cut) -> None:
    # Only which heads hold the same token matters, not where in the sequence it stands.
    moved = dataclasses.replace(cut.observation, positions=cut.observation.positions + 1000)
    moved_cut = dataclasses.replace(cut, observation=moved)
    assert moved_cut.select().tobytes() == cut.select().tobytes()
