from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.selection.importance import (
    IMPORTANCE_METHODS,
    ImportanceMethod,
    Observation,
    SnapKV,
    max_pool,
)
from tests.selection import slow_reference


def observe(attention, num_kv_heads=1, distinctiveness=None):
    attention = np.array(attention, dtype=np.float32)
    positions = np.tile(np.arange(attention.shape[1], dtype=np.int32), (num_kv_heads, 1))
    return Observation(attention, positions, distinctiveness)


@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 80),
    kernel_size=st.integers(0, 25).map(lambda reach: 2 * reach + 1),
)
def test_max_pool_is_the_maximum_of_each_centred_window(seed, length, kernel_size):
    scores = np.random.default_rng(seed).standard_normal((2, length), dtype=np.float32)
    wanted = [slow_reference.pooled(row, kernel_size) for row in scores.tolist()]
    assert max_pool(scores, kernel_size).tolist() == wanted


def test_snapkv_takes_the_mean_of_a_group_before_it_pools():
    # Pooling first would give the group of the first two heads 4, 4, 4, 4.
    observation = observe([[8, 0, 0, 0], [0, 0, 0, 8], [1, 2, 3, 4], [3, 2, 1, 0]], num_kv_heads=2)
    assert SnapKV(1).score(observation).tolist() == [[4, 0, 0, 4], [2, 2, 2, 2]]
    assert SnapKV(3).score(observation).tolist() == [[4, 4, 4, 4], [2, 2, 2, 2]]
    observation = observe([[8, 0, 0], [0, 8, 0]])
    assert SnapKV(3).score(observation).tolist() == [[4, 4, 4]]


@pytest.mark.parametrize("kernel_size", [0, -1, 2, 30])
def test_a_kernel_without_a_centre_is_refused(kernel_size):
    with pytest.raises(ConfigError, match="odd"):
        SnapKV(kernel_size)


def test_slots_cuts_everything_that_was_observed():
    distinctiveness = np.arange(4, dtype=np.float32)[None]
    part = observe([[1, 2, 3, 4]], distinctiveness=distinctiveness).slots(1, 3)
    assert part.window_attention.tolist() == [[2, 3]]
    assert part.positions.tolist() == [[1, 2]]
    assert part.measured_distinctiveness().tolist() == [[1, 2]]
    assert observe([[1, 2, 3, 4]]).slots(1, 3).distinctiveness is None


def test_by_query_head_gives_every_query_head_its_kv_heads_tokens():
    positions = np.array([[0, 1], [0, 5]], dtype=np.int32)
    distinctiveness = np.array([[1, 2], [3, 4]], dtype=np.float32)
    attention = np.arange(8, dtype=np.float32).reshape(4, 2)
    alone = Observation(attention, positions, distinctiveness).by_query_head()
    assert alone.positions.tolist() == [[0, 1], [0, 1], [0, 5], [0, 5]]
    assert alone.measured_distinctiveness().tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert SnapKV(1).score(alone).tolist() == attention.tolist()


def test_distinctiveness_that_was_not_measured_is_an_error_not_a_guess():
    with pytest.raises(ConfigError, match="not measured"):
        observe([[1, 2]]).measured_distinctiveness()


@pytest.mark.parametrize("name", list(IMPORTANCE_METHODS))
def test_every_method_in_the_registry_scores(name):
    observation = observe(np.ones((4, 6)), 2, np.zeros((2, 6), dtype=np.float32))
    method = IMPORTANCE_METHODS[name](3)
    assert isinstance(method, ImportanceMethod)
    scores = method.score(observation)
    assert (scores.shape, scores.dtype) == ((2, 6), np.float32)


def test_the_registry_passes_the_kernel_on():
    assert IMPORTANCE_METHODS["snapkv"](5) == SnapKV(kernel_size=5)
