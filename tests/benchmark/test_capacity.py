"""Users of machines that are not there, by arithmetic that can be done by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

from ov_kvcrush.benchmark.capacity import (
    Capacity,
    Costs,
    CutCosts,
    Habit,
    Machine,
    capacity_of,
    fleet_users,
)

HERE = Machine(cores=2, bandwidth=50e9, memory_bytes=16e9)
COSTS = Costs(
    machine=HERE,
    weight_bytes=1e9,
    resident_bytes=2e9,
    step_seconds=0.030,
    serial_seconds=0.002,
    sequence_serial_seconds=0.0001,
    product_seconds=0.0012,
    kv_seconds=4e-11,
    kv_bytes_per_token=50_000,
    read_seconds=0.001,
    read_growth=1e-7,
    cut=CutCosts(budget=1024, kept_bytes=50e6, peak_bytes=120e6, read_seconds=0.0015),
)
HABIT = Habit(context=8000, new_tokens=100, answer_tokens=200, turn_seconds=60.0, token_seconds=0.1)


def test_reading_gets_slower_with_what_stands_before_unless_that_is_cut() -> None:
    assert COSTS.reading_seconds(1000, 0, is_cut=False) == pytest.approx(1000 * (0.001 + 5e-5))
    assert COSTS.reading_seconds(100, 10_000, is_cut=False) == pytest.approx(
        100 * (0.001 + 1e-7 * 10_050)
    )
    assert COSTS.reading_seconds(100, 10_000, is_cut=True) == pytest.approx(0.15)


def test_a_step_reads_the_weights_once_and_each_sequences_cache() -> None:
    cache = 4e-11 * 400e6
    assert COSTS.decode_seconds(1, 8000, is_cut=False) == pytest.approx(0.030 + cache)
    further = cache + 0.0012 + 0.0001
    assert COSTS.decode_seconds(5, 8000, is_cut=False) == pytest.approx(0.030 + cache + 4 * further)
    assert COSTS.user_bytes(8000, is_cut=True) == 50e6
    assert COSTS.user_bytes(100, is_cut=True) == 100 * 50_000  # less than the budget


def test_requests_that_come_together_are_read_one_after_the_other_and_decoded_together() -> None:
    reading = 3 * COSTS.reading_seconds(4000, 0, is_cut=True)
    decoding = 99 * COSTS.decode_seconds(3, 4050, is_cut=True)
    assert COSTS.together_seconds(3, 4000, 100, is_cut=True) == pytest.approx(reading + decoding)


def test_cores_help_until_the_memory_or_one_thread_is_the_bound() -> None:
    twice = COSTS.on(Machine(4, 100e9, 16e9))
    assert twice.step_seconds == pytest.approx(0.028 / 2 + 0.002)
    assert twice.read_seconds == pytest.approx(0.0005)
    assert twice.product_seconds == pytest.approx(0.0006)
    assert twice.cut is not None
    assert twice.cut.read_seconds == pytest.approx(0.00075)
    assert twice.sequence_serial_seconds == 0.0001
    # 1e9 bytes at 50 GB/s are 20 ms, whatever computes.
    assert COSTS.on(Machine(64, 50e9, 16e9)).step_seconds == pytest.approx(0.020)
    assert COSTS.on(Machine(64, 50e9, 16e9)).kv_seconds == pytest.approx(1 / 50e9)
    enough = COSTS.cores_worth_having(50e9)
    assert COSTS.on(Machine(math.ceil(enough), 50e9, 16e9)).step_seconds == pytest.approx(0.020)
    assert COSTS.on(Machine(math.floor(enough), 50e9, 16e9)).step_seconds > 0.020
    assert COSTS.cores_worth_having(1e12) == math.inf
    assert COSTS.on(HERE) == COSTS


def test_as_many_users_are_served_as_keep_the_time_a_token() -> None:
    found = capacity_of(COSTS, HABIT, is_cut=True)
    sequence = 4e-11 * 50e6 + 0.0012 + 0.0001
    work = 100 * 0.0015 + 200 * sequence

    def token_seconds(users: int) -> float:
        return COSTS.decode_seconds(1, 8000, is_cut=True) / (1 - (users - 1) * work / 60)

    assert token_seconds(found.by_time) <= 0.1 < token_seconds(found.by_time + 1)
    # The same by what is in a step, and what is read in between.
    others = found.by_time - 1
    in_step = others * 200 * token_seconds(found.by_time) / 60
    reading = others * 100 * 0.0015 / 60
    step = COSTS.step_seconds + 4e-11 * 50e6 + in_step * sequence
    assert step / (1 - reading) == pytest.approx(token_seconds(found.by_time))


def test_memory_bounds_users_whose_caches_are_large() -> None:
    full = capacity_of(COSTS, HABIT, is_cut=False)
    cut = capacity_of(COSTS, HABIT, is_cut=True)
    assert full.by_memory == int((16e9 - 2e9) / 400e6)
    assert cut.by_memory == int((16e9 - 2e9 - 120e6) / 50e6)
    small = COSTS.on(dataclasses.replace(HERE, memory_bytes=3e9))
    assert capacity_of(small, HABIT, is_cut=False).users == 2
    assert capacity_of(small, HABIT, is_cut=False).is_bound_by_memory
    nothing = COSTS.on(dataclasses.replace(HERE, memory_bytes=1e9))
    assert capacity_of(nothing, HABIT, is_cut=True).users == 0


def test_nobody_is_served_whose_single_answer_would_be_too_slow() -> None:
    assert capacity_of(COSTS, dataclasses.replace(HABIT, token_seconds=0.02), True).users == 0
    assert Capacity(100, 80, 1.0, 0.5).sequences == 40


def test_users_who_stay_where_they_are_do_not_lie_evenly() -> None:
    assert fleet_users(100, 1) == 100
    several = fleet_users(100, 4)
    assert 300 < several < 400
    mean = several / 4
    assert mean + math.sqrt(2 * mean * math.log(4)) == pytest.approx(100, abs=1)
    assert fleet_users(1, 4) == 1
    assert fleet_users(0, 4) == 0
