"""Where kept tokens go, as properties."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.runtime.eviction.moving import place

HEADS = 2


@st.composite
def kept_slots(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Slots of kept tokens in the order of the text, among more that were held; newest last."""
    held = draw(st.integers(1, 80))
    count = draw(st.integers(1, held))
    in_order = draw(st.integers(0, count))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    slots = np.stack([rng.permutation(held)[:count] for _ in range(HEADS)])
    return slots.astype(np.int32), in_order


@given(kept_slots())
def test_the_kept_fill_the_front_slots_once_each(case: tuple[np.ndarray, int]) -> None:
    slots, in_order = case
    placed = place(slots, in_order)
    assert (np.sort(placed, axis=1) == np.arange(slots.shape[1])).all()


@given(kept_slots())
def test_the_newest_lie_last_in_order(case: tuple[np.ndarray, int]) -> None:
    slots, in_order = case
    count = slots.shape[1]
    placed = place(slots, in_order)
    assert (placed[:, count - in_order :] == np.arange(count - in_order, count)).all()


@given(kept_slots())
def test_older_tokens_that_lie_in_front_stay(case: tuple[np.ndarray, int]) -> None:
    slots, in_order = case
    free = slots.shape[1] - in_order
    older, placed = slots[:, :free], place(slots, in_order)[:, :free]
    stays = older < free
    assert (placed[stays] == older[stays]).all()


def test_all_in_order_is_moving_to_the_front() -> None:
    slots = np.array([[3, 7, 8]], np.int32)
    assert place(slots, 3).tolist() == [[0, 1, 2]]
    assert place(slots, 9).tolist() == [[0, 1, 2]]
