from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.selection.cut_budget import CutBudget, divide_budget


def divide(
    num_slots: int,
    max_cache_size: int,
    start_size: int,
    recent_size: int,
    share: float = 0.25,
    page_size: int = 1,
) -> CutBudget:
    return divide_budget(
        num_slots,
        max_cache_size,
        start_size=start_size,
        recent_size=recent_size,
        representative_share=share,
        page_size=page_size,
    )


def test_start_recent_important_and_representatives_share_one_budget() -> None:
    assert divide(4096, 1024, 32, 64) == CutBudget(32, 4032, 696, 232)


@pytest.mark.parametrize(
    ("middle", "share", "representatives"),
    [
        (10, 0.25, 2),  # 2.5, half to even
        (14, 0.25, 4),  # 3.5, half to even
        (11, 0.25, 3),  # 2.75
        (9, 0.25, 2),  # 2.25
        (9, 0.0, 0),
        (9, 1.0, 9),
        (0, 0.5, 0),
    ],
)
def test_the_share_is_rounded_to_the_nearest_count_half_to_even(
    middle: int, share: float, representatives: int
) -> None:
    budget = divide(100, middle, 0, 0, share)
    assert budget.representatives == representatives
    assert budget.important == middle - representatives


def test_a_partial_last_page_belongs_to_the_recent_area() -> None:
    # 330 slots: 10 whole pages of 32 and 10 tokens. Recent: 64 tokens, from slot 266, so from 256.
    budget = divide(330, 192, 32, 64, 0.5, page_size=32)
    assert budget.middle_end == 256
    # 192 - 32 - 74 = 86 tokens: two pages and 22 tokens unused.
    assert (budget.important, budget.representatives) == (1, 1)


@given(
    page_size=st.sampled_from([1, 2, 4, 32]),
    start=st.integers(0, 4),
    recent=st.integers(0, 4),
    middle=st.integers(1, 20),
    more=st.integers(1, 500),
    share=st.floats(0, 1),
)
def test_a_divided_budget_is_never_exceeded_and_less_than_a_page_is_unused(
    page_size: int, start: int, recent: int, middle: int, more: int, share: float
) -> None:
    max_cache_size = (start + recent + middle) * page_size
    num_slots = max_cache_size + more
    budget = divide(
        num_slots, max_cache_size, start * page_size, recent * page_size, share, page_size
    )
    kept_recent = num_slots - budget.middle_end
    assert recent * page_size <= kept_recent < (recent + 1) * page_size
    kept_pages = budget.important + budget.representatives
    used = budget.middle_begin + kept_pages * page_size + kept_recent
    assert 0 <= max_cache_size - used < page_size
    assert min(budget.important, budget.representatives) >= 0
    num_pages, rest = divmod(budget.middle_end - budget.middle_begin, page_size)
    assert rest == 0
    assert num_pages > kept_pages


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 99))
def test_a_budget_smaller_than_start_and_recent_is_refused(
    start: int, recent: int, max_cache_size: int
) -> None:
    assume(max_cache_size < start + recent)
    with pytest.raises(ConfigError, match="no room for start_size"):
        divide(200, max_cache_size, start, recent)
