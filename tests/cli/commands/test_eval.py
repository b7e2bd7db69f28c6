"""``ov-kvcrush eval`` as it is used: a small real run, Ctrl+C, and mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.cli import run
from ov_kvcrush.evaluation.suites.longbench.rows import SHIPPED_ROWS
from tests.support.paths import ROOT

DATA = ROOT / "samples" / "data" / "needle-sample.jsonl"
LINES = DATA.read_text(encoding="utf-8").splitlines(keepends=True)


def shortened(line: str) -> dict[str, Any]:
    """A conversation about a quarter of its document, which still holds the right answers."""
    row: dict[str, Any] = json.loads(line)
    (document, answer), *later = row["turns"]
    rights = [answer, *(right for _, right in later)]
    head, *lines, question = document.split("\n")
    kept = [x for n, x in enumerate(lines) if n % 4 == 0 or any(right in x for right in rights)]
    row["turns"] = [["\n".join([head, *kept, "", question]), answer], *later]
    return row


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two conversations: of three questions, and of one after an acknowledged document."""
    path = tmp_path_factory.mktemp("data") / "two.jsonl"
    first, second = map(shortened, LINES[:2])
    second["turns"][0][1] = "Noted."
    del second["turns"][2:]
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n", encoding="utf-8")
    return path


def test_policies_are_compared_with_the_full_cache(
    needle_int8_dir: Path, two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "figures.json"
    arguments = ["--policy", "default", "--policy", "genai", "--compare", "full", "--json"]
    code = run(
        ["eval", str(needle_int8_dir), "--data", str(two), *arguments, "--output", str(output)]
    )
    shown = capsys.readouterr()
    assert code == 0
    assert shown.err.splitlines() == ["[1/3] full cache", "[2/3] default 1/4", "[3/3] genai 1/4"]
    body = json.loads(shown.out)
    full, default, genai = body["configurations"]
    assert body["complete"]
    assert (full["first"]["asked"], full["later"]["asked"]) == (1, 3)
    assert full["all"]["right"] >= 3
    for part in (default, genai):
        assert 0.22 < part["mean_budget_share"] <= 0.25
        assert part["kv_bytes_mean"] < 0.4 * full["kv_bytes_mean"]
        assert part["kv_bytes_peak"] <= full["kv_bytes_peak"]
    assert default["num_restarts"] == full["num_restarts"] == 0
    assert len(body["differences"]) == 2

    conversations = json.loads(output.read_text())["configurations"][1]["conversations"]
    assert [len(conversation["answers"]) for conversation in conversations] == [3, 1]
    assert default["all"]["right"] == sum(
        answer["right"] for conversation in conversations for answer in conversation["answers"]
    )


def test_ctrl_c_shows_what_was_finished(needle_int8_dir: Path, two: Path) -> None:
    command = [sys.executable, "-m", "ov_kvcrush", "eval", str(needle_int8_dir)]
    with subprocess.Popen(
        [*command, "--data", str(two), "--limit", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[2/6]"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "full cache" in out
    assert "default" not in out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none.jsonl"], "cannot read none.jsonl: No such file or directory"),
        (["--policy", "snapkw"], "unknown policy 'snapkw'"),
        (["--keep", "4"], "--keep '4' is not a part of the tokens, between 0 and 1"),
        (["--precision", "u8"], "--precision 'u8' is not KEY/VALUE"),
        (["--tokens", "1", "2"], "the filters leave none of the 14 conversations"),
        (["--task", "qoute"], "no conversation has the task 'qoute'"),
        (["--max-cache-size", "512"], "--max-cache-size is not for documents of different sizes"),
        (["--prefill-factor", "0.5"], "--prefill-factor 0.5 is neither 0 nor from 1 to 1,000,000"),
        (["--prefill-factor", "inf"], "--prefill-factor inf is neither 0 nor from 1 to 1,000,000"),
        (["--output", "x" * 300], f"{'x' * 300} cannot be written: its name is too long"),
        (["--chunk", str(2**64)], "Invalid value for '--chunk'"),
        (["--compare", "h2p"], "--compare 'h2p' is not one of the policies"),
        (["--output", "no/such/file.json"], "no/such/file.json cannot be written"),
        (["--output", "."], ". cannot be written: it is not a file"),
        (["--output", str(DATA)], f"{DATA} is the data itself"),
        (["--plot", f"{DATA.parent}/../data/{DATA.name}"], f"{DATA.parent}/../data/{DATA.name} is"),
        (["--property", "THREADS"], "--property 'THREADS' is not KEY=VALUE"),
        (["--suite", "fidelty"], "unknown suite 'fidelty'"),
        (["--split", "hold"], "unknown split 'hold'"),
        (["--setting", "known"], "--setting is not for --suite needle"),
        (["--answer-tokens", "4"], "--answer-tokens is not for --suite needle"),
        (["--suite", "fidelity", "--setting", "knwon"], "unknown setting 'knwon'"),
        (["--suite", "fidelity", "--task", "qoute"], "no text has the task 'qoute'"),
        (["--suite", "fidelity", "--chat-template", "no"], "--chat-template 'no' is not one of"),
        (["--suite", "fidelity", "--policy", "snapkw"], "unknown policy 'snapkw'"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", "no-model", "--data", str(DATA), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) <= 2


def test_a_broken_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{LINES[0]}{{\n")
    assert run(["eval", "no-model", "--data", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}, line 2: not valid JSON (")


def test_a_model_that_is_not_there_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "no-model", "--data", str(DATA)]) == 2
    assert "error: no such model folder: no-model\n" in capsys.readouterr().err


def test_a_budget_too_small_is_refused_before_anything_runs(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", str(needle_int8_dir), "--data", str(DATA), "--keep", "1/100"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: default 1/100 of ")
    assert "leaves nothing to choose" in error
    assert hint.startswith("Keep more")


def test_fidelity_needs_no_right_answers(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, plot = tmp_path / "figures.json", tmp_path / "kl.png"
    arguments = [
        "--suite", "fidelity", "--limit", "2", "--tokens", "400", "4000", "--policy", "default",
        "--policy", "snapkv-k7", "--compare", "snapkv-k7", "--keep", "1/2", "--answer-tokens", "4",
        "--chat-template", "never", "--by-task", "--chunk", "512",
    ]  # fmt: skip
    files = ["--output", str(output), "--plot", str(plot)]
    code = run(["eval", str(needle_int8_dir), "--data", str(SHIPPED_ROWS), *arguments, *files])
    shown = capsys.readouterr()
    assert code == 0
    assert [line[:5] for line in shown.err.splitlines()] == ["[1/2]", "[2/2]"]
    for part in ("Question known", "Question unknown", "Reading", "KL × 1000 by task, reading"):
        assert part in shown.out
    assert "Difference to snapkv-k7" in shown.out
    assert plot.stat().st_size > 1000
    body = json.loads(output.read_text())
    assert body["complete"]
    assert body["num_prompts"] == len(body["prompts"]) == 2
    full, default, _ = body["configurations"]
    for setting in ("known", "unknown", "reading"):
        assert full[setting]["kl"] == 0
        assert default[setting]["kl"] > 0
        assert 0.49 < default[setting]["kept"] <= 0.5
    (difference,) = body["differences"]
    assert difference["reading"]["kl"]["low"] <= difference["reading"]["kl"]["high"]


def test_fidelity_shows_what_was_finished_after_ctrl_c(needle_int8_dir: Path) -> None:
    command = [sys.executable, "-m", "ov_kvcrush", "eval", str(needle_int8_dir)]
    arguments = ["--suite", "fidelity", "--policy", "default", "--setting", "known", "--json"]
    with subprocess.Popen(
        [*command, "--data", str(DATA), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[2/14]"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    body = json.loads(out)
    assert not body["complete"]
    assert body["num_prompts"] == 1
    assert "Traceback" not in err
