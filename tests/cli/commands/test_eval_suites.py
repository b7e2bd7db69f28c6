"""``ov-kvcrush eval --suite longbench|ruler|turns``: files, a run that goes on, and mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from ov_kvcrush.cli import run

ASKED = ["--suite", "turns", "--task", "needles", "--length", "1200", "--samples", "2"]
CACHES = ["--policy", "default", "--policy", "snapkv-k7", "--keep", "1/2", "--setting", "known"]


def test_one_run_writes_everything_and_goes_on_where_it_was(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal, table, page, figures = (
        tmp_path / name for name in ("a.jsonl", "a.csv", "a.html", "a.json")
    )
    files = ["--journal", str(journal), "--csv", str(table), "--report", str(page)]
    arguments = ["eval", str(needle_int8_dir), *ASKED, *CACHES, "--compare", "default", *files]
    assert run([*arguments, "--output", str(figures), "--by-task"]) == 0
    shown = capsys.readouterr().out
    for part in ("Question known", "snapkv-k7 1/2", "later", "Difference to default", "needles"):
        assert part in shown
    header, first, second = journal.read_text(encoding="utf-8").splitlines()
    assert "request" in json.loads(header)
    body = json.loads(figures.read_text(encoding="utf-8"))
    assert body["complete"]
    assert body["suite"] == "turns"
    assert [sample["id"] for sample in body["samples"]] == [
        json.loads(line)["id"] for line in (first, second)
    ]
    cut = body["samples"][0]["cells"][1]
    assert cut["configuration"] == "default 1/2"
    heads = [held for layer in cut["kept_by_head"] for held in layer]
    assert sum(heads) / len(heads) == pytest.approx(cut["kept"])
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert {row["name"] for row in rows} == {"full cache", "default 1/2", "snapkv-k7 1/2"}
    text = page.read_text(encoding="utf-8")
    assert "Tokens kept by layer and KV head" in text
    assert "<script" not in text
    # As if it had been killed after the first sample: the second is asked again, no other.
    journal.write_text(f"{header}\n{first}\n{second[:20]}", encoding="utf-8")
    assert run(arguments) == 0
    assert "samples 2 to 2" in capsys.readouterr().err
    assert journal.read_text(encoding="utf-8").splitlines() == [header, first, second]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "ruler", "--data", "x"], "--data is not for --suite ruler"),
        (["--suite", "turns", "--answer-tokens", "3"], "--answer-tokens is not for --suite turns"),
        (["--journal", "x.jsonl"], "--journal is not for --suite needle"),
        (["--suite", "longbench", "--samples", "3"], "--samples is not for --suite longbench"),
        (["--suite", "turns", "--report", "x.txt"], "x.txt is not the name of a page"),
        (["--suite", "turns", "--csv", "no/such/x.csv"], "no/such/x.csv cannot be written"),
        (["--suite", "turns", "--task", "needls"], "unknown task 'needls'"),
        (["--suite", "longbench", "--data", "no/such"], "no/such"),
        (["--suite", "needle"], "--suite needle needs conversations"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(
    needle_int8_dir: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", str(needle_int8_dir), *arguments]) == 2
    error, *hint = capsys.readouterr().err.splitlines()
    assert message in error
    assert len(hint) <= 1
