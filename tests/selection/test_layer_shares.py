"""The layers' budgets: the total stays, and no layer is given what it cannot use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.selection import LAYER_BUDGETS, divide_between_layers, make_layer_shares
from ov_kvcrush.selection.layer_shares import normalized, pyramid_shares

# The mean budget, and for each layer its share and the tokens it holds; start and recent sizes.
Division = tuple[int, list[float], list[int], int, int]


@st.composite
def divisions(draw: st.DrawFn) -> Division:
    num_layers = draw(st.integers(1, 6))
    start, recent = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    mean = start + recent + draw(st.integers(0, 40))
    shares = draw(
        st.lists(
            st.sampled_from([0.0, 0.1, 1.0, 2.5]) | st.floats(0, 10),
            min_size=num_layers,
            max_size=num_layers,
        )
    )
    held = draw(st.lists(st.integers(0, 120), min_size=num_layers, max_size=num_layers))
    return mean, list(normalized(shares)), held, start, recent


@given(divisions())
def test_the_total_is_the_budget_or_all_there_is(division: Division) -> None:
    mean, shares, held, start, recent = division
    budgets = divide_between_layers(mean, shares, held, start_size=start, recent_size=recent)
    kept = [min(budget, tokens) for budget, tokens in zip(budgets, held, strict=True)]
    assert all(budget >= start + recent for budget in budgets)
    assert sum(kept) <= mean * len(held)
    if all(tokens >= start + recent for tokens in held):
        assert sum(kept) == min(mean * len(held), sum(held))


def test_even_shares_of_equal_layers_are_the_budget_itself() -> None:
    budgets = divide_between_layers(100, [1.0] * 3, [300] * 3, start_size=8, recent_size=24)
    assert budgets == [100, 100, 100]


def test_what_one_layer_cannot_use_goes_to_the_others_by_their_shares() -> None:
    # 3 * 60 tokens of middle; the last layer would get 135 and has room for 60.
    budgets = divide_between_layers(
        80, [0.25, 0.5, 2.25], [300, 300, 80], start_size=10, recent_size=10
    )
    assert budgets == [20 + 40, 20 + 80, 80]


def test_pyramid_goes_down_in_even_steps_to_a_twentieth() -> None:
    shares = pyramid_shares(5)
    assert np.diff(shares) == pytest.approx(np.diff(shares)[0])
    assert (shares[0], shares[-1]) == pytest.approx((1.95, 0.05))
    assert sum(shares) == pytest.approx(5)
    assert make_layer_shares("pyramid", 5).shares(None, 0) == list(shares)


def test_auto_is_the_methods_own_then_the_plans_then_uniform() -> None:
    def shares(**known: Any) -> list[float]:
        return make_layer_shares("auto", 2, **known).shares(None, 0)

    assert shares() == [1, 1]
    assert shares(planned=[1, 3]) == [0.5, 1.5]
    assert shares(planned=[1, 3], preferred="pyramid") == [1.95, pytest.approx(0.05)]


def test_adaptive_gives_more_to_the_layer_that_looks_further_back() -> None:
    near = np.array([[0, 1, 1, 8]], dtype=np.float32)
    far = np.array([[5, 3, 1, 1]], dtype=np.float32)
    policy = make_layer_shares("adaptive", 2)
    assert policy.needs_attention
    near_share, far_share = policy.shares([near, far], recent_size=2)
    # 0.1 and 0.8 of the attention look away; squared 0.01 and 0.64.
    assert far_share == pytest.approx(0.1 + 0.9 * 2 * 0.64 / 0.65)
    assert near_share + far_share == pytest.approx(2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pyramids", "'pyramids' is not known\nDid you mean 'pyramid'"),
        ("plan", "needs a KV plan with layer shares"),
        ((1.0, 2.0), "lists 2 layers, and the model has 3"),
        ((1.0, -1.0, 1.0), "layer budget -1.0 is not a finite number"),
        ((1.0, float("nan"), 1.0), "layer budget nan is not"),
    ],
)
def test_budgets_that_do_not_fit_the_model_are_refused(
    setting: str | tuple[float, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_layer_shares(setting, 3)


def test_every_name_is_served() -> None:
    for name in LAYER_BUDGETS:
        policy = make_layer_shares(name, 3, planned=[1, 2, 3])
        shares = policy.shares([np.ones((1, 4), np.float32)] * 3, 1)
        assert sum(shares) == pytest.approx(3)
