"""``benchmarks/plan_capacity.py``: tables of users, and where they break."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmark.test_capacity_costs import cell, report
from tests.support.paths import ROOT


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/plan_capacity.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_it_tells_users_of_each_machine_and_where_that_breaks(tmp_path: Path) -> None:
    cells = (cell(1000), cell(4000), cell(1000, requests=4), cell(4000, 1024))
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(report(*cells)))
    told = plan(str(path), "--machine", "large=64:280:512", "--machines", "1", "2")
    assert told.stderr == ""
    lines = told.stdout.splitlines()
    assert "| context | kept | a user | here | large | 2 × large | a core |" in lines
    rows = [line.split("|")[1:4] for line in lines if line.startswith(("| 8,192", "| 131,072"))]
    assert [[part.strip() for part in row] for row in rows] == [
        ["8,192", "all", "328 MB"],
        ["8,192", "1,024", "41 MB"],
        ["131,072", "all", "5,243 MB"],
        ["131,072", "1,024", "41 MB"],
    ]
    assert any(line.startswith("| 4 × 1,000 in, 51 out") for line in lines)
    assert "drawn out from 4,000 at most: 33 times." in told.stdout


def test_what_it_cannot_read_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text("{}")
    told = plan(str(path))
    assert told.returncode == 2
    assert told.stderr.startswith("error: this is not the report of a benchmark")
    assert told.stderr.count("\n") == 2
