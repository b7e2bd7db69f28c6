from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.selection.importance import (
    H2O,
    IMPORTANCE_METHODS,
    TOVA,
    AdaptiveRKV,
    KeyDiff,
    PyramidKV,
    Random,
    SnapKV,
    StreamingLLM,
    make_importance,
)
from ov_kvcrush.selection.importance.base import max_pool
from ov_kvcrush.selection.observation import Floats, Observation
from tests.support import slow_selection


def observe(
    attention: ArrayLike, num_kv_heads: int = 1, distinctiveness: Floats | None = None
) -> Observation:
    measured = np.array(attention, dtype=np.float32)
    positions = np.tile(np.arange(measured.shape[1], dtype=np.int32), (num_kv_heads, 1))
    return Observation(measured, positions, distinctiveness)


@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 80),
    kernel_size=st.integers(0, 25).map(lambda reach: 2 * reach + 1),
)
def test_max_pool_is_the_maximum_of_each_centred_window(
    seed: int, length: int, kernel_size: int
) -> None:
    scores = np.random.default_rng(seed).standard_normal((2, length), dtype=np.float32)
    wanted = [slow_selection.pooled(row, kernel_size) for row in scores.tolist()]
    assert max_pool(scores, kernel_size).tolist() == wanted


def test_snapkv_takes_the_mean_of_a_group_before_it_pools() -> None:
    # Pooling first would give the group of the first two heads 4, 4, 4, 4.
    observation = observe([[8, 0, 0, 0], [0, 0, 0, 8], [1, 2, 3, 4], [3, 2, 1, 0]], num_kv_heads=2)
    assert SnapKV(kernel_size=1).score(observation).tolist() == [[4, 0, 0, 4], [2, 2, 2, 2]]
    assert SnapKV(kernel_size=3).score(observation).tolist() == [[4, 4, 4, 4], [2, 2, 2, 2]]
    observation = observe([[8, 0, 0], [0, 8, 0]])
    assert SnapKV(kernel_size=3).score(observation).tolist() == [[4, 4, 4]]


@pytest.mark.parametrize("kernel_size", [0, -1, 2, 30])
def test_a_kernel_without_a_centre_is_refused(kernel_size: int) -> None:
    with pytest.raises(ConfigError, match="odd"):
        SnapKV(kernel_size=kernel_size)


def test_slots_cuts_everything_that_was_observed() -> None:
    distinctiveness = np.arange(4, dtype=np.float32)[None]
    part = observe([[1, 2, 3, 4]], distinctiveness=distinctiveness).slots(1, 3)
    assert part.need("window_attention").tolist() == [[2, 3]]
    assert part.positions.tolist() == [[1, 2]]
    assert part.need("distinctiveness").tolist() == [[1, 2]]
    assert observe([[1, 2, 3, 4]]).slots(1, 3).distinctiveness is None


def test_by_query_head_gives_every_query_head_its_kv_heads_tokens() -> None:
    positions = np.array([[0, 1], [0, 5]], dtype=np.int32)
    distinctiveness = np.array([[1, 2], [3, 4]], dtype=np.float32)
    attention = np.arange(8, dtype=np.float32).reshape(4, 2)
    alone = Observation(attention, positions, distinctiveness).by_query_head()
    assert alone.positions.tolist() == [[0, 1], [0, 1], [0, 5], [0, 5]]
    assert alone.need("distinctiveness").tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert SnapKV(kernel_size=1).score(alone).tolist() == attention.tolist()


def test_distinctiveness_that_was_not_measured_is_an_error_not_a_guess() -> None:
    with pytest.raises(ConfigError, match="not measured"):
        observe([[1, 2]]).need("distinctiveness")


@pytest.mark.parametrize("name", list(IMPORTANCE_METHODS))
def test_every_method_in_the_registry_scores(name: str) -> None:
    ones = np.ones((4, 6), dtype=np.float32)
    observation = replace(
        observe(ones, 2, np.zeros((2, 6), dtype=np.float32)), accumulated_attention=ones
    )
    scores = make_importance(name, window_size=4, kernel_size=3, seed=1).score(observation)
    assert scores.shape == (2, 6)
    assert scores.dtype == np.float32


def test_a_method_takes_the_settings_it_has() -> None:
    made = make_importance("snapkv", window_size=4, kernel_size=5, seed=9)
    assert made == SnapKV(window_size=4, kernel_size=5)
    assert made.num_window_queries == 4
    assert make_importance("tova", window_size=4, kernel_size=5, seed=9).num_window_queries == 1
    assert make_importance("random", window_size=4, seed=9) == Random(9)
    assert make_importance("keydiff", window_size=4).num_window_queries == 0


def test_an_unknown_method_is_refused_with_the_closest() -> None:
    with pytest.raises(ConfigError, match="'snapvk' is not known\nDid you mean 'snapkv'"):
        make_importance("snapvk")


def test_h2o_takes_what_all_queries_paid() -> None:
    observation = replace(
        observe(np.zeros((4, 3)), 2),
        accumulated_attention=np.array([[1, 2, 3], [3, 2, 1], [0, 0, 8], [0, 4, 0]], np.float32),
    )
    assert H2O().score(observation).tolist() == [[2, 2, 2], [0, 2, 4]]
    with pytest.raises(ConfigError, match="accumulated attention"):
        H2O().score(observe(np.zeros((4, 3)), 2))


def test_tova_gives_all_heads_the_mean_of_all() -> None:
    observation = observe([[4, 0, 2], [0, 0, 2]], num_kv_heads=2)
    assert TOVA().score(observation).tolist() == [[2, 0, 2]] * 2


def test_streaming_keeps_the_newest_and_keydiff_the_distinct() -> None:
    observation = observe(np.zeros((1, 3)), 1, np.array([[-1, 1, 0]], dtype=np.float32))
    assert StreamingLLM().score(observation).argsort().tolist() == [[0, 1, 2]]
    assert KeyDiff().score(observation).argsort().tolist() == [[0, 2, 1]]


def test_pyramidkv_is_snapkv_with_budgets_of_its_own() -> None:
    observation = observe(np.arange(12).reshape(2, 6), 2)
    pyramid, snap = PyramidKV(4, 3), SnapKV(4, 3)
    assert pyramid.score(observation).tolist() == snap.score(observation).tolist()
    assert (pyramid.layer_budgets, snap.layer_budgets) == ("pyramid", "")


def test_adaptive_rkv_keeps_the_attended_first_and_then_the_diverse() -> None:
    # 6 + 3 of 10 are 0.9: slots 1 and 3 lead, the others follow by distinctiveness.
    attention = [[0.5, 6, 0.25, 3, 0.25]]
    distinct = np.array([[0, -1, 0.5, -1, -0.5]], dtype=np.float32)
    scores = AdaptiveRKV(attention_mass=0.9).score(observe(attention, 1, distinct))
    assert (-scores).argsort().tolist() == [[1, 3, 2, 0, 4]]


@given(seed=st.integers(0, 2**32 - 1), num_slots=st.integers(1, 50))
def test_random_is_any_order_but_always_the_same(seed: int, num_slots: int) -> None:
    observation = observe(np.zeros((2, num_slots)), 2)
    scores = Random(seed).score(observation)
    assert scores.tobytes() == Random(seed).score(observation).tobytes()
    assert ((scores >= 0) & (scores < 1)).all()
