"""Medians, ratios of turns that belong together, and what reaches tables and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from ov_kvcrush.benchmark.grid import Group
from ov_kvcrush.benchmark.measurement import Measurement, mean_by_time, times_by_request
from ov_kvcrush.benchmark.report import Report
from ov_kvcrush.benchmark.results import Cell, paired_ratio
from ov_kvcrush.benchmark.roofline import Roofline
from ov_kvcrush.benchmark.workload import Workload
from tests.benchmark.test_contestants import setup_of

ROOFLINE = Roofline(bandwidth=10e9, weight_bytes=100_000_000)


def measured(ttft: float, tpot: float, **changes: Any) -> Measurement:
    settings: dict[str, Any] = {
        "num_requests": 1,
        "ttft": (ttft,),
        "tpot": (tpot,),
        "seconds": ttft + 10 * tpot,
        "cpu_seconds": 1.0,
        "num_generated": 11,
        "kv_bytes": 20_000_000,
        "kv_bytes_peak": 30_000_000,
        "resident_bytes": 300_000_000,
    }
    return Measurement(**{**settings, **changes})


@pytest.fixture
def cell() -> Cell:
    workload = Workload(100, 11)
    parts = {"reading": 3.0, "decoding": 1.0, "sampling": 1.0}
    turns = {
        "paged": [measured(1.0, 0.024, parts=parts), measured(3.0, 0.024), measured(1.0, 0.02)],
        "genai-kvcrush": [measured(2.0, 0.03), measured(4.0, 0.024), measured(1.0, 0.02)],
    }
    setups = tuple(setup_of(name, 1024) for name in turns)
    return Cell(Group(("u8", "u8"), 1024, setups, (workload,)), workload, turns)


def test_a_ratio_is_that_of_each_turn() -> None:
    ratio = paired_ratio([1.0, 30.0, 4.0], [2.0, 40.0, 4.0])
    assert ratio is not None
    # The medians alone would say 4 / 4.
    assert (ratio.median, ratio.low, ratio.high) == (0.75, 0.5, 1.0)


def test_turns_without_a_figure_have_no_ratio() -> None:
    assert paired_ratio([None, 1.0], [1.0, None]) is None
    ratio = paired_ratio([None, 1.0], [1.0, 2.0])
    assert ratio is not None
    assert ratio.median == 0.5


def test_ours_is_divided_by_the_others(cell: Cell) -> None:
    assert cell.reference == "paged"
    ratio = cell.ratio("genai-kvcrush", "ttft")
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == (0.75, 0.5, 1.0)
    assert cell.typical("paged", "ttft") == 1.0
    assert cell.typical("paged", "next_ttft") is None
    assert cell.ratio("genai-kvcrush", "next_ttft") is None


def test_the_roofline_counts_weights_and_cache(cell: Cell) -> None:
    assert cell.least_tpot("paged", ROOFLINE) == pytest.approx(0.012)
    assert cell.of_roofline("paged", ROOFLINE) == pytest.approx(0.5)


def test_the_roofline_counts_the_sequences_that_were_computed_together() -> None:
    workload = Workload(100, 11, num_requests=4)
    # Each holds 20 MB in the end, and two ran at a time.
    turn = measured(1.0, 0.02, num_requests=4, kv_bytes=80_000_000, mean_concurrency=2.0)
    group = Group(None, 0, (setup_of("paged", 0),), (workload,))
    cell = Cell(group, workload, {"paged": [turn]})
    assert cell.least_tpot("paged", ROOFLINE) == pytest.approx((100e6 + 2 * 20e6) / 10e9)


def test_parts_are_shares_of_the_whole(cell: Cell) -> None:
    assert cell.parts("paged") == {"reading": 0.6, "decoding": 0.2, "sampling": 0.2}
    assert cell.parts("genai-kvcrush") == {}


def test_tables_name_every_side_and_the_last_line_is_about_others(cell: Cell) -> None:
    report = Report([cell], ROOFLINE, num_threads=2, others_percent=3.2)
    console = Console(width=200, record=True, file=None, quiet=True)
    with console.capture() as shown:
        console.quiet = False
        for table in report.tables():
            console.print(table)
    text = shown.get()
    assert "100 tokens in, 11 out; 1,024 tokens kept, u8/u8" in text
    assert "openvino_genai, KVCrush, 1,024 tokens" in text
    assert "0.75 (0.50–1.00)" in text
    assert "80.0 = 60.0 + 20.0" in text
    assert "/min" not in text  # one request alone
    assert report.last_lines()[-1] == "other processes took 3 % of all processors meanwhile"


def test_json_has_every_turn_where_it_is_asked_for(cell: Cell) -> None:
    report = Report([cell], ROOFLINE, num_threads=2, others_percent=3.2)
    body = json.loads(json.dumps(report.to_dict(with_turns=True)))
    (only,) = body["cells"]
    assert only["precision"] == "u8/u8"
    assert [side["engine"] for side in only["sides"]] == ["paged", "genai-kvcrush"]
    assert len(only["sides"][0]["turns"]) == 3
    assert only["ratios"][0]["tpot"]["median"] == pytest.approx(1.0)
    assert "turns" not in report.to_dict(with_turns=False)["cells"][0]["sides"][0]


def test_only_whole_answers_have_times() -> None:
    ttft, tpot = times_by_request([[1.0, 2.0, 4.0], [1.5, 2.0]], num_tokens=3)
    assert ttft == (1.0,)
    assert tpot == (1.5,)


def test_the_mean_over_steps_goes_by_their_time() -> None:
    assert mean_by_time([(3.0, 1), (1.0, 5)]) == 2.0
    assert mean_by_time([]) is None
