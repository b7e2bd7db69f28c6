"""Tables of made-up results."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from ov_kvcrush.evaluation.reporting.tables import difference_table, score_tables, task_tables
from tests.support.suite_results import (
    FULL,
    RANK,
    make_result,
    make_sample,
    single_results,
    turns_results,
)


def shown(table: Table) -> list[list[str]]:
    """Cells of each line of ``table``, and its title and caption."""
    console = Console(file=io.StringIO(), width=250)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


@pytest.fixture
def results() -> SuiteResults:
    return turns_results()


def test_turns_have_columns_of_their_own_in_percent_of_the_full_cache(
    results: SuiteResults,
) -> None:
    known, unknown = map(shown, score_tables(results))
    assert known[0] == ["Question known: cut behind the first question; 3 samples"]
    # Full: first 1, 1; later 1, 0.5, 1; all 1, 2/3, 1. Rank: later 0.25, 0.5, 1; all 0.5, 2/3, 1.
    full = ["full cache", "100.0", "100.0%", "83.3", "100.0%", "88.9", "100.0%", "4,000", "20.00"]
    assert full in known
    assert ["rank 1/4", "100.0", "100.0%", "58.3", "70.0%", "72.2", "81.2%", "1,000", "5.00"] in (
        known
    )
    assert ["snapkv 1/4", "50.0", "50.0%", "16.7", "20.0%", "22.2", "25.0%", "1,000", "5.00"] in (
        known
    )
    assert [row[0] for row in unknown if row[0].endswith("1/4")] == ["rank 1/4"]


def test_one_question_a_sample_has_one_score() -> None:
    (table,) = map(shown, score_tables(single_results()))
    assert ["rank 1/4", "50.0", "50.0%", "1,000", "5.00"] in table


def test_tasks_are_rows_and_their_mean_the_last(results: SuiteResults) -> None:
    known, _ = map(shown, task_tables(results))
    # Needles: full 1, 2/3; rank 0.5, 2/3; snapkv 1/3, 1/3. Summary: 1; 1; 0.
    assert ["needles", "2", "83.3", "58.3", "33.3"] in known
    assert ["summary", "1", "100.0", "100.0", "0.0"] in known
    # Of the tasks, not of the samples: (83.3 + 100) / 2.
    assert ["mean of tasks", "3", "91.7", "79.2", "16.7"] in known
    (single,) = map(shown, task_tables(single_results()))
    assert not any(row[0] == "mean of tasks" for row in single)


def test_a_difference_inside_its_interval_is_called_that(results: SuiteResults) -> None:
    rows = shown(difference_table(results, "snapkv"))
    place = next(number for number, row in enumerate(rows) if row[0] == "rank 1/4")
    row = ["rank 1/4", "snapkv 1/4", "known", "+50.0 [+0.0, +100.0]"]
    assert rows[place][:4] == row
    assert rows[place][5] == "+50.0 [+16.7, +100.0]"
    assert rows[place + 1] == ["", "", "", *["inside the interval"] * 2, ""]
    assert "Intervals over 3 samples say little; ask at least 10." in str(rows[-1])
    assert "say little" not in str(shown(difference_table(single_results(10), "full")))


def test_openvino_genai_has_its_note_where_there_are_later_turns(results: SuiteResults) -> None:
    assert "openvino_genai" not in str([table.caption for table in score_tables(results)])
    peer = Configuration("genai", "genai", RANK.keep)
    with_peer = replace(results, configurations=(*results.configurations, peer))
    assert "openvino_genai" in str([table.caption for table in score_tables(with_peer)])


def test_names_of_tasks_are_not_read_as_markup_nor_as_control_characters() -> None:
    sample = make_sample("a", "[red]task[/red] \x1b[31m")
    result = make_result(sample, {("known", FULL): (1,)})
    results = SuiteResults.of((FULL,), [sample], [result])
    (table,) = map(shown, task_tables(results))
    assert ["[red]task[/red] \\x1b[31m", "1", "100.0"] in table
