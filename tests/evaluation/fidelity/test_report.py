"""Tables, JSON values and picture of made-up scores."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from ov_kvcrush.evaluation.configurations import Configuration, make_configurations
from ov_kvcrush.evaluation.fidelity.plot import save_fidelity_plot
from ov_kvcrush.evaluation.fidelity.report import (
    fidelity_difference_table,
    fidelity_summary,
    fidelity_tables,
    fidelity_task_tables,
)
from ov_kvcrush.evaluation.fidelity.results import PromptScores, Results, Score

FULL, RANK, SNAPKV = make_configurations(["rank", "snapkv"], [Fraction(1, 4)], [])
GENAI = Configuration("genai", "genai", Fraction(1, 4))


def score(*kl: float, alike: tuple[bool, ...] | None = None, gold: float | None = None) -> Score:
    budget = 100 if sum(kl) else 0
    alike = tuple(value < 0.1 for value in kl) if alike is None else alike
    return Score(
        budget, 100.0 if budget else 400.0, 1_000_000 if budget else 4_000_000, kl, alike, gold
    )


def prompt(name: str, task: str, rank: Score, snapkv: Score, **more: Score) -> PromptScores:
    scores = {("known", FULL): score(0, 0), ("known", RANK): rank, ("known", SNAPKV): snapkv}
    scores |= {(setting, RANK): value for setting, value in more.items()}
    return PromptScores(name, task, 400, "Ann", 1.5, scores)


@pytest.fixture
def results() -> Results:
    prompts = (
        prompt("one", "law", score(0.02, 0.04, gold=-0.5), score(0.3), unknown=score(0.5)),
        prompt("two", "code", score(0.2, 0.0), score(0.1, 0.2)),
        # An answer of one token, which no cut can change.
        prompt("three", "code", Score(100, 100.0, 1_000_000), Score(100, 100.0, 1_000_000)),
    )
    return Results(("known", "unknown"), (FULL, RANK, SNAPKV), prompts)


def shown(table: Table) -> list[list[str]]:
    """Cells of each line of ``table``, and its title and caption."""
    console = Console(file=io.StringIO(), width=250)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_prompts_count_alike_however_many_tokens_they_have(results: Results) -> None:
    known, unknown = map(shown, fidelity_tables(results))
    assert known[0] == ["Question known: cut behind it; 3 prompts"]
    # Means of 0.03 and 0.1, of 2/2 and 1/2.
    assert ["rank 1/4", "65.0", "75.0%", "50.0%", "-0.500", "25.0%", "1.00"] in known
    assert ["snapkv 1/4", "225.0", "0.0%", "0.0%", "–", "25.0%", "1.00"] in known
    assert ["full cache", "0.0", "100.0%", "100.0%", "–", "100.0%", "4.00"] in known
    # What was not measured has no row.
    assert [line[0] for line in unknown if line[0].endswith("1/4")] == ["rank 1/4"]
    assert "nats × 1000" in " ".join(line[0] for line in unknown)


def test_tasks_have_tables_of_their_own(results: Results) -> None:
    known, _ = map(shown, fidelity_task_tables(results))
    assert ["code", "2", "100.0", "150.0"] in known
    assert ["law", "1", "30.0", "300.0"] in known


def test_free_running_answers_have_columns_where_they_were_tried(results: Results) -> None:
    assert "free" not in str(shown(next(fidelity_tables(results))))
    free = Score(96, 96.0, 0, free_tokens=0.25, free_alike=False)
    prompts = tuple(
        PromptScores(p.id, p.task, 400, "", 1, p.scores | {("known", GENAI): free})
        for p in results.prompts
    )
    table = next(fidelity_tables(Results(("known",), (*results.configurations, GENAI), prompts)))
    rows = shown(table)
    assert ["genai 1/4", "–", "–", "–", "–", "25.0%", "0.0%", "24.0%", "–"] in rows
    assert "openvino_genai can be told nothing" in str(table.caption)


def test_differences_are_paired_and_have_intervals(results: Results) -> None:
    rows = shown(fidelity_difference_table(results, "snapkv"))
    (rank,) = [row for row in rows if row[0] == "rank 1/4"]
    assert rank[1].startswith("-160.0 [")
    assert rank[2].startswith("+75.0 [")
    assert rank[3] == "–"
    body = fidelity_summary(results, "snapkv")["differences"]
    (rank_body,) = [row for row in body if row["policy"] == "rank"]
    kl = rank_body["known"]["kl"]
    # The two prompts that have any: -0.27 and -0.05.
    assert (kl["low"], kl["points"], kl["high"]) == pytest.approx((-0.27, -0.16, -0.05))


def test_figures_are_json_and_unrounded(results: Results) -> None:
    body = json.loads(json.dumps(fidelity_summary(results, with_prompts=True)))
    _, rank, _ = body["configurations"]
    assert rank["known"]["kl"] == pytest.approx(0.065)
    assert rank["known"]["by_task"]["code"]["kl"] == pytest.approx(0.1)
    assert rank["known"]["kept"] == pytest.approx(100 / 400)
    assert (body["num_prompts"], body["seconds"]) == (3, 4.5)
    first = body["prompts"][0]
    assert first["answer"] == "Ann"
    assert first["scores"][1]["kl"] == [0.02, 0.04]
    assert first["scores"][1]["name"] == "rank 1/4"
    assert "prompts" not in fidelity_summary(results)


def test_the_picture_is_drawn(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "kl.svg"
    save_fidelity_plot(results, path)
    text = path.read_text()
    assert text.count("question known") or "<svg" in text
