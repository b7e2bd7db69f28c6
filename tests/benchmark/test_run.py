"""Who compiles and measures when."""

from __future__ import annotations

from typing import Any

import pytest

from ov_kvcrush.benchmark.grid import Grid, Group
from ov_kvcrush.benchmark.measurement import Measurement
from ov_kvcrush.benchmark.run import run_grid
from ov_kvcrush.benchmark.side_setup import SideSetup
from ov_kvcrush.benchmark.workload import Workload
from ov_kvcrush.progress import Progress, Silent
from tests.benchmark.test_contestants import setup_of
from tests.benchmark.test_results import measured

NAMES = ["paged", "genai", "genai-kvcrush"]
WORKLOADS = (Workload(100, 4), Workload(200, 4))


class Told:
    """In place of processes: writes down what they are told."""

    log: list[tuple[Any, ...]]

    def __init__(self, setup: SideSetup) -> None:
        self.setup = setup

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append(("end", self.setup.engine))

    def compile(self, progress: Progress) -> None:
        self.log.append(("compile", self.setup.engine))

    def measure(self, workload: Workload, turn: int) -> Measurement:
        self.log.append(("measure", self.setup.engine, workload, turn))
        return measured(float(turn), 0.01)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    Told.log = []
    monkeypatch.setattr("ov_kvcrush.benchmark.run.SideProcess", Told)
    setups = tuple(setup_of(name, 256) for name in NAMES)
    groups = tuple(Group(None, total, setups, WORKLOADS) for total in (256, 512))
    grid = Grid(groups, num_turns=2, orders=(1, -1), num_threads=2)
    cells = list(run_grid(grid, Silent()))
    assert [cell.workload for cell in cells] == [*WORKLOADS, *WORKLOADS]
    for cell in cells:
        turns = [[one.ttft for one in cell.turns[name]] for name in NAMES]
        assert len(turns[0]) == 4
        assert turns[0] == turns[1] == turns[2]  # those of a turn stand in the same place
    return Told.log


def test_sides_compile_in_both_orders(log: list[tuple[Any, ...]]) -> None:
    compiled = [entry[1] for entry in log if entry[0] == "compile"]
    assert compiled == 2 * [*NAMES, *reversed(NAMES)]
    # What was compiled in one order has ended before the other begins.
    assert [entry[0] for entry in log].count("end") == 12


def test_they_take_turns_at_going_first(log: list[tuple[Any, ...]]) -> None:
    rounds: dict[int, list[str]] = {}
    for entry in log:
        if entry[0] == "measure":
            rounds.setdefault(entry[3], []).append(entry[1])
    assert all(sorted(names) == sorted(NAMES) for names in rounds.values())
    # Of each workload a round that does not count, then two that do; in both orders, twice.
    assert len(rounds) == 2 * 2 * 2 * 3
    firsts = [names[0] for names in rounds.values()]
    assert firsts[1:3] == ["paged", "genai-kvcrush"]


def test_no_two_rounds_share_their_prompts(log: list[tuple[Any, ...]]) -> None:
    asked = [(entry[2], entry[3]) for entry in log if entry[0] == "measure"]
    assert len(asked) == 3 * len(set(asked))
    assert len({turn for _, turn in asked}) == len(set(asked))
