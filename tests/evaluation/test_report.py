"""Tables, JSON values and picture of made-up outcomes."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.configurations import make_configurations
from ov_kvcrush.evaluation.dataset import Example
from ov_kvcrush.evaluation.plot import require_plot, save_plot
from ov_kvcrush.evaluation.report import accuracy_table, difference_table, summary, task_table
from ov_kvcrush.evaluation.results import Outcome, Record, ScoredAnswer

ASKED = Example("one", "quote", 4000, (("q", "a"), ("q", "b")))
NOTED = Example("two", "count", 4000, (("q", "Noted."), ("q", "a"), ("q", "b")))

# Right or wrong by conversation and turn; what the model says to a "Noted." is not scored.
RIGHT = {
    "full cache": ((True, True), (False, True, True)),
    "rank 1/4": ((True, False), (True, True, False)),
    "genai 1/4": ((False, True), (False, True, True)),
}


def record(example: Example, right: tuple[bool, ...], is_full: bool) -> Record:
    kv_bytes = 20_000_000 if is_full else 5_000_000
    return Record(
        example=example,
        prompt_tokens=4000,
        budget=0 if is_full else 960,
        answers=tuple(
            ScoredAnswer(example.kind(turn), "a", is_right) for turn, is_right in enumerate(right)
        ),
        kv_bytes=kv_bytes,
        kv_bytes_peak=2 * kv_bytes,
        num_restarts=0,
    )


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return [
        Outcome(
            configuration,
            tuple(
                record(example, right, configuration.keep is None)
                for example, right in zip((ASKED, NOTED), RIGHT[configuration.name], strict=True)
            ),
        )
        for configuration in make_configurations(["rank", "genai"], [Fraction(1, 4)], [])
    ]


def shown(table: Table) -> list[list[str]]:
    """Cells of each line of ``table``, and its title and caption."""
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_the_table_counts_kinds_apart_and_leaves_acknowledgements_out(
    outcomes: list[Outcome],
) -> None:
    rows = shown(accuracy_table(outcomes))
    assert ["full cache", "1/1", "100.0%", "3/3", "100.0%", "4/4", "100.0%", "20.00", "40.00"] in (
        rows
    )
    assert ["rank 1/4", "1/1", "100.0%", "1/3", "33.3%", "2/4", "50.0%", "5.00", "10.00"] in rows
    assert ["genai 1/4", "0/1", "0.0%", "3/3", "100.0%", "3/4", "75.0%", "5.00", "10.00"] in rows


def test_only_the_genai_engine_has_its_caption(outcomes: list[Outcome]) -> None:
    assert "knows each question" in str(accuracy_table(outcomes).caption)
    assert accuracy_table(outcomes[:2]).caption is None


def test_tasks_are_rows(outcomes: list[Outcome]) -> None:
    rows = shown(task_table(outcomes))
    assert ["count", "2/2", "1/2", "2/2"] in rows
    assert ["quote", "2/2", "1/2", "1/2"] in rows


def test_differences_are_to_the_policy_at_the_same_budget(outcomes: list[Outcome]) -> None:
    rows = shown(difference_table(outcomes, "rank"))
    assert [row[0] for row in rows if row[0].endswith("1/4")] == ["genai 1/4"]
    rows = shown(difference_table(outcomes, "full"))
    assert next(r[:2] for r in rows if r[0] == "rank 1/4") == ["rank 1/4", "+0.0 [+0.0, +0.0]"]
    assert ["genai 1/4", "-100.0 [-100.0, -100.0]"] in [row[:2] for row in rows]


def test_the_summary_is_json_with_the_same_figures(outcomes: list[Outcome]) -> None:
    body = json.loads(json.dumps(summary(outcomes, compare="full")))
    full, rank, _ = body["configurations"]
    assert full["all"] == {"right": 4, "asked": 4, "of_full": 1.0}
    assert rank["later"] == {"right": 1, "asked": 3, "of_full": pytest.approx(1 / 3)}
    assert rank["by_task"]["quote"]["right"] == 1
    assert (full["mean_budget_share"], rank["mean_budget_share"]) == (1.0, 0.24)
    assert rank["keep"] == 0.25
    assert "conversations" not in rank
    assert [d["name"] for d in body["differences"]] == ["rank 1/4", "genai 1/4"]


def test_every_answer_is_told_where_asked_for(outcomes: list[Outcome]) -> None:
    rank = summary(outcomes, with_examples=True)["configurations"][1]
    asked, noted = rank["conversations"]
    assert [a["right"] for a in asked["answers"]] == [True, False]
    assert [(a["turn"], a["kind"]) for a in noted["answers"]] == [(1, "later"), (2, "later")]
    assert (noted["id"], noted["kv_bytes"], noted["budget"]) == ("two", 5_000_000, 960)


def test_nothing_right_has_no_share(outcomes: list[Outcome]) -> None:
    wrong = Outcome(outcomes[0].configuration, (record(ASKED, (False, False), True),))
    assert wrong.of_full(wrong) is None
    assert ["full cache", "0/1", "–"] in [row[:3] for row in shown(accuracy_table([wrong]))]


def test_the_picture_is_drawn(outcomes: list[Outcome], tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    require_plot(path)
    save_plot(outcomes, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_refused_early(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is not the name of a picture"):
        require_plot(tmp_path / "picture.json")
    monkeypatch.setattr("ov_kvcrush.evaluation.plot.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install .*ov-kvcrush\[eval\]"):
        require_plot(tmp_path / "picture.png")
