"""``ov-kvcrush bench`` as it is used: a small real run, Ctrl+C, and mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ov_kvcrush.cli import run


def test_engines_take_turns(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, plot = tmp_path / "figures.json", tmp_path / "speed.png"
    arguments = [
        "--quick", "--max-cache-size", "256", "--prompt-tokens", "640", "--concurrency", "1",
        "--concurrency", "2", "--next-turn", "8", "--repeat", "2",
        "--engine", "paged", "--engine", "genai-kvcrush",
    ]  # fmt: skip
    files = ["--output", str(output), "--plot", str(plot)]
    assert run(["bench", str(needle_int8_dir), *arguments, *files]) == 0
    shown = capsys.readouterr()
    assert "[1/1] 256 tokens kept" in shown.err
    assert "openvino_genai, KVCrush, 256 tokens" in shown.out
    assert "other processes took" in shown.out.splitlines()[-1]
    assert plot.stat().st_size > 1000

    body = json.loads(output.read_text())
    assert body["complete"]
    assert body["roofline"]["bandwidth"] > 0
    alone, together = body["cells"]
    assert (alone["workload"]["num_requests"], together["workload"]["num_requests"]) == (1, 2)
    for cell in (alone, together):
        ours, theirs = cell["sides"]
        for side in (ours, theirs):
            assert len(side["turns"]) == 2
            for turn in side["turns"]:
                assert turn["num_completed"] == cell["workload"]["num_requests"]
                assert 0 < min(turn["ttft"]) <= max(turn["ttft"]) < turn["seconds"]
                assert len(turn["next_ttft"]) == turn["num_completed"]
                assert turn["cpu_seconds"] > 0
            assert 0 < side["kv_bytes"] <= side["kv_bytes_peak"] < side["resident_bytes"]
            assert side["of_roofline"] > 0
        assert {"reading", "decoding", "selecting", "moving", "sampling", "scheduling"} <= set(
            ours["parts"]
        )
        assert sum(ours["parts"].values()) == pytest.approx(1)
        assert ours["kv_bytes"] <= theirs["kv_bytes"]
        (ratio,) = cell["ratios"]
        assert ratio["tpot"]["low"] <= ratio["tpot"]["median"] <= ratio["tpot"]["high"]
    assert together["sides"][0]["kv_bytes"] == 2 * alone["sides"][0]["kv_bytes"]
    assert together["sides"][1]["kv_bytes"] == 2 * alone["sides"][1]["kv_bytes"]


def test_ctrl_c_shows_what_was_finished_and_leaves_no_process(needle_int8_dir: Path) -> None:
    command = [sys.executable, "-m", "ov_kvcrush", "bench", str(needle_int8_dir), "--quick"]
    arguments = ["--engine", "paged", "--max-cache-size", "0", "--max-cache-size", "256"]
    with subprocess.Popen(
        [*command, *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[2/2]"):
                break
        children = psutil.Process(process.pid).children(recursive=True)
        # As the terminal does, to all of them.
        for one in [*children, psutil.Process(process.pid)]:
            one.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    body = json.loads(out)
    assert not body["complete"]
    assert [cell["max_cache_size"] for cell in body["cells"]] == [0]
    assert "Traceback" not in err
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a model's folder or --random-model"),
        (["nowhere", "--random-model", "mha"], "give either a model's folder or --random-model"),
        (["nowhere"], "no such model folder: nowhere"),
        (["nowhere", "--keep-in", "."], "--keep-in is for --random-model"),
        (["nowhere", "--engine", "genia"], "unknown engine 'genia'"),
        (["nowhere", "--precision", "u8"], "--precision 'u8' is not KEY/VALUE"),
        (["nowhere", "--max-cache-size", "100"], "--max-cache-size 100 is not a total"),
        (["nowhere", "--property", "THREADS"], "--property 'THREADS' is not KEY=VALUE"),
        (["nowhere", "--plot", "a.txt"], "--plot a.txt is not the name of a picture"),
        (["nowhere", "--output", "no/such/file.json"], "no/such/file.json cannot be written"),
        (["--random-model", "moe"], "unknown random model 'moe'"),
        (["nowhere", "--concurrency", "0"], "Invalid value for '--concurrency'"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt-tokens", "9000"], "9,000 tokens in, 64 out: 9,064 tokens are more than the"),
        (["--pool-size", "64"], "--pool-size 64 is too small for 4,096 tokens in, 64 out"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_anything_runs(
    needle_int8_dir: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", str(needle_int8_dir), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
