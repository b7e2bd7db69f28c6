"""JSON values and CSV of made-up results."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from ov_kvcrush.evaluation.reporting.summary import csv_rows, summary, write_csv
from tests.support.suite_results import FULL, make_result, make_sample, turns_results


@pytest.fixture
def results() -> SuiteResults:
    return turns_results()


def test_figures_are_json_and_unrounded(results: SuiteResults) -> None:
    body = json.loads(json.dumps(summary(results)))
    assert (body["num_samples"], body["num_questions"]) == (3, 7)
    _, rank, snapkv = body["configurations"]
    assert (rank["name"], rank["keep"]) == ("rank 1/4", 0.25)
    later = rank["known"]["later"]
    # 0.25, 0.5 and 1; the bootstrap of three draws each of them alone now and then.
    assert later["score"] == pytest.approx(1.75 / 3)
    assert (later["low"], later["high"]) == (0.25, 1.0)
    assert (later["n"], later["of_full"]) == (3, pytest.approx(0.7))
    assert rank["known"]["first"]["n"] == 2
    assert rank["known"]["by_task"]["needles"]["score"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert (rank["known"]["kept"], rank["known"]["kv_bytes"]) == (1000.0, 5_000_000.0)
    assert "unknown" in rank
    assert "unknown" not in snapkv
    assert "differences" not in body
    assert "samples" not in body


def test_differences_are_points_and_say_whether_they_are_inside(results: SuiteResults) -> None:
    (rank,) = summary(results, "snapkv")["differences"]
    assert (rank["name"], rank["to"], rank["setting"]) == ("rank 1/4", "snapkv 1/4", "known")
    assert rank["all"]["points"] == pytest.approx(50)
    assert [rank[turns]["inside_interval"] for turns in ("first", "all")] == [True, False]


def test_every_answer_is_told_where_asked_for(results: SuiteResults) -> None:
    first = json.loads(json.dumps(summary(results, with_samples=True)))["samples"][0]
    assert (first["id"], first["num_tokens"]) == ("a", 4000)
    rank = next(c for c in first["cells"] if c["configuration"] == "rank 1/4")
    assert [answer["score"] for answer in rank["answers"]] == [1, 0.5, 0]


def test_csv_has_a_row_for_each_task_setting_and_cache(
    results: SuiteResults, tmp_path: Path
) -> None:
    path = tmp_path / "scores.csv"
    write_csv(path, results)
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    places = [(row["task"], row["setting"], row["name"]) for row in rows]
    assert len(set(places)) == len(rows) == 2 * (3 + 2)
    row = rows[places.index(("needles", "known", "rank 1/4"))]
    assert float(row["score"]) == pytest.approx((0.5 + 2 / 3) / 2)
    assert float(row["of_full"]) == pytest.approx((0.5 + 2 / 3) / (1 + 2 / 3))
    assert (row["n"], row["kept"], row["kv_bytes"]) == ("2", "1000.0", "5000000.0")
    assert [float(row["low"]), float(row["high"])] == pytest.approx([0.5, 2 / 3])
    full = rows[places.index(("needles", "known", "full cache"))]
    assert (full["keep"], full["precision"]) == ("", "")


def test_csv_quotes_what_a_task_is_called(tmp_path: Path) -> None:
    sample = make_sample("a", 'a "task",\nin two lines \ud800')
    results = SuiteResults.of((FULL,), [sample], [make_result(sample, {("known", FULL): (1,)})])
    path = tmp_path / "scores.csv"
    write_csv(path, results)
    with path.open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert row["task"] == 'a "task",\nin two lines \\ud800'
    assert csv_rows(results)[0]["score"] == 1.0
