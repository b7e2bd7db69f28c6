"""Costs are found again in the reports of benchmarks that were made from them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ov_kvcrush.benchmark.capacity_costs import costs_of, read_samples
from ov_kvcrush.benchmark.grid import Group
from ov_kvcrush.benchmark.measurement import Measurement
from ov_kvcrush.benchmark.report import Report
from ov_kvcrush.benchmark.results import Cell
from ov_kvcrush.benchmark.roofline import Roofline
from ov_kvcrush.benchmark.workload import Workload
from ov_kvcrush.errors import ConfigError
from tests.benchmark.test_contestants import setup_of

ANSWER = 51
KV_PER_TOKEN = 40_000


def cell(prompt: int, budget: int = 0, requests: int = 1, speed: float = 1.0) -> Cell:
    """Reading 1 ms a token and 0.1 µs for each before, a step 10 ms and 0.05 ms a MB.

    Each further request takes 2 ms more of it, and its cache.
    """
    tokens = budget or prompt + ANSWER - 1
    kv = tokens * KV_PER_TOKEN
    ttft = prompt * (0.0012 if budget else 0.001 + 1e-7 * prompt / 2) * speed
    tpot = 0.010 + 5e-11 * kv
    decoding = (ANSWER - 1) * (0.010 + 5e-11 * requests * kv + 0.002 * (requests - 1))
    seconds = requests * ttft + decoding
    serial = ANSWER * (0.0004 + 0.0001 * (requests - 1))
    one = Measurement(
        num_requests=requests,
        ttft=requests * (ttft,),
        tpot=requests * (tpot,),
        seconds=seconds,
        cpu_seconds=seconds,
        num_generated=requests * ANSWER,
        kv_bytes=requests * kv,
        kv_bytes_peak=2 * requests * kv,
        resident_bytes=500_000_000 + 2 * requests * kv,
        parts={
            "reading": seconds - serial - decoding,
            "decoding": decoding,
            "rest": serial / 2,
            "sampling": serial / 2,
        },
    )
    workload = Workload(prompt, ANSWER, requests)
    group = Group(None, budget, (setup_of("paged", budget),), (workload,))
    return Cell(group, workload, {"paged": [one]})


def report(*cells: Cell, weight_bytes: int = 200_000_000) -> dict[str, Any]:
    """As the command writes it."""
    roofline = Roofline(bandwidth=40e9, weight_bytes=weight_bytes)
    written = json.dumps(Report(cells, roofline, 2, 0.0).to_dict(with_turns=False))
    values: dict[str, Any] = json.loads(written)
    return values


def test_costs_are_those_that_were_measured() -> None:
    costs = costs_of(
        [report(cell(1000), cell(4000), cell(1000, requests=4)), report(cell(4000, 1024))]
    )
    assert (costs.machine.cores, costs.machine.bandwidth) == (2, 40e9)
    assert costs.weight_bytes == 200_000_000
    assert costs.resident_bytes == 500_000_000
    assert costs.read_seconds == pytest.approx(0.001)
    assert costs.read_growth == pytest.approx(1e-7)
    assert costs.step_seconds == pytest.approx(0.010)
    assert costs.kv_seconds == pytest.approx(5e-11)
    assert costs.kv_bytes_per_token == pytest.approx(KV_PER_TOKEN)
    assert costs.serial_seconds == pytest.approx(0.0004)
    assert costs.sequence_serial_seconds == pytest.approx(0.0001)
    assert costs.product_seconds == pytest.approx(0.002)
    assert costs.cut is not None
    assert costs.cut.budget == 1024
    assert costs.cut.kept_bytes == 1024 * KV_PER_TOKEN
    assert costs.cut.peak_bytes == 2 * 1024 * KV_PER_TOKEN
    assert costs.cut.read_seconds == pytest.approx(0.0012)


def test_one_length_alone_tells_nothing_of_growth() -> None:
    costs = costs_of([report(cell(2000))])
    assert costs.cut is None
    assert costs.read_growth == 0
    assert costs.read_seconds == pytest.approx(0.0011)
    # Reading a cache takes at least as long as the memory needs for it.
    assert costs.kv_seconds == pytest.approx(1 / 40e9)
    # What nothing is known of is taken to be dear.
    assert costs.sequence_serial_seconds == costs.serial_seconds
    # As in a prompt.
    assert costs.product_seconds == costs.read_seconds


def test_noise_does_not_make_long_prompts_cheap() -> None:
    costs = costs_of([report(cell(1000, speed=1.5), cell(4000))])
    assert costs.read_growth == 0
    assert 0.0012 < costs.read_seconds < 0.0016


def test_the_smallest_budget_counts_unless_another_one_is_named() -> None:
    reports = [report(cell(4000), cell(4000, 512), cell(4000, 1024))]
    for budget, expected in ((None, 512), (1024, 1024)):
        cut = costs_of(reports, budget=budget).cut
        assert cut is not None
        assert cut.budget == expected
    with pytest.raises(ConfigError, match="no request was cut to 256"):
        costs_of(reports, budget=256)


def test_reports_that_tell_too_little_are_refused() -> None:
    with pytest.raises(ConfigError, match="several sizes"):
        costs_of([report(cell(1000)), report(cell(1000), weight_bytes=1)])
    with pytest.raises(ConfigError, match="several numbers of threads"):
        costs_of([report(cell(1000)), {**report(cell(1000)), "num_threads": 4}])
    with pytest.raises(ConfigError, match="nothing evicted"):
        costs_of([report(cell(4000, 1024))])
    with pytest.raises(ConfigError, match="genai came alone"):
        costs_of([report(cell(1000))], engine="genai")
    with pytest.raises(ConfigError, match="not the report"):
        read_samples({"cells": [{}]})
    with pytest.raises(ConfigError, match="not the report"):
        costs_of([{}])
