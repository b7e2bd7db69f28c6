"""The sides of each group taking turns, in both orders of compiling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count

from ov_kvcrush.benchmark.grid import Grid, Group
from ov_kvcrush.benchmark.measurement import Measurement
from ov_kvcrush.benchmark.results import Cell
from ov_kvcrush.benchmark.side_process import SideProcess
from ov_kvcrush.benchmark.workload import Workload
from ov_kvcrush.progress import Progress

_Turns = dict[Workload, dict[str, list[Measurement]]]


def run_grid(grid: Grid, progress: Progress) -> Iterator[Cell]:
    """Measure everything in ``grid``; the cells of each group once it is done.

    Every turn has prompts that no other turn has, in the whole run: what a side keeps of one is of
    no use to it later. Its sides get the same.

    Args:
        grid: what is measured.
        progress: is told which group runs, and how far it is.

    Raises:
        OVKVCrushError: as the engines.
        KeyboardInterrupt: Ctrl+C.
    """
    numbers = count()
    for number, group in enumerate(grid.groups, start=1):
        progress.step(number, len(grid.groups), group.title)
        turns: _Turns = {
            workload: {setup.engine: [] for setup in group.setups} for workload in group.workloads
        }
        done, to_do = 0, len(grid.orders) * len(group.workloads) * (grid.num_turns + 1)
        for order in grid.orders:
            for _ in _run_order(group, order, grid.num_turns, numbers, turns, progress):
                done += 1
                progress.advance(done / to_do)
        for workload in group.workloads:
            yield Cell(group, workload, turns[workload])


def _run_order(
    group: Group,
    order: int,
    num_turns: int,
    numbers: Iterator[int],
    turns: _Turns,
    progress: Progress,
) -> Iterator[None]:
    """Compile the sides in ``order``, and let them take turns; yields after each round of them."""
    with ExitStack() as stack:
        # They import side by side, which takes seconds, and compile one after the other.
        sides = [stack.enter_context(SideProcess(setup)) for setup in group.setups]
        for side in sides[::order]:
            side.compile(progress)
        for workload in group.workloads:
            # The first prompt of a length also pays for the plugin's buffers, and whichever loops
            # are still to be compiled.
            turn = next(numbers)
            for side in sides:
                side.measure(workload, turn)
            yield
            for _ in range(num_turns):
                turn, taken = next(numbers), turns[workload]
                # Who goes first changes from turn to turn.
                in_order = len(taken[group.setups[0].engine]) % 2 == 0
                for side in sides if in_order else sides[::-1]:
                    taken[side.setup.engine].append(side.measure(workload, turn))
                yield
