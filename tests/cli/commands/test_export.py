"""The export command: whole runs of it, one that shows the plan alone, and one that is stopped."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ov_kvcrush.cli import run
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.precisions import LayerPrecision
from tests.support.paths import ROOT

COMMAND = [sys.executable, "-m", "ov_kvcrush", "export"]


def test_a_whole_export(model: Path, tmp_path: Path) -> None:
    flags = ["--weight-format", "int8", "--kv-cache-precision", "u4", "--json"]
    output = tmp_path / "new" / "output"
    process = subprocess.run(
        [*COMMAND, "-m", str(model), *flags, str(output)], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr.splitlines() == [
        "[1/6] Convert the tokenizer",
        "[2/6] Export to OpenVINO",
        "[3/6] Compress weights to int8",
        "[4/6] Set the KV cache to u4/u4 and try it",
        "[5/6] Measure which heads look back",
        "note: no head was found to look back: all get the same part of a budget",
        "[6/6] Fit the gate",
    ]
    summary = json.loads(process.stdout)
    plan = KVPlan.load(output)
    assert plan is not None
    assert plan.precisions == (LayerPrecision("u4", "u4"),) * 2
    assert summary["output"] == str(output)
    assert summary["is_estimate"] is False
    assert summary["fingerprint"] == plan.fingerprint
    # Two heads of 16: keys 8 bytes and 8 of scales a channel and page, values 8 bytes and 8.
    assert plan.kv_bytes_per_token == 2 * 2 * ((8 + 8 * 16 / 32) + (8 + 8))
    assert summary["kv_bytes_at"] == {"1024": 114688, "8192": 917504, "32768": 3670016}


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = lambda make, options, progress, verbose: make(options, progress)  # noqa: E731
    monkeypatch.setattr("ov_kvcrush.export.child_process.run_in_child", here)
    assert run(["export", "-m", str(model), str(tmp_path / "output"), "--dry-run"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines.pop().startswith("Weights on this CPU int4 ")
    assert lines == [
        f"{tmp_path}/output (estimated, nothing was exported)",
        "Model llama, 2 layers, 4 query / 2 KV heads of 16, context 512",
        "Weights fp32, 2.9 MB",
        "KV cache layers 0–1: K u8, V u8",
        "KV per token 0.17 KiB",
        "KV at 8,192 tokens 1.4 MB in full, 0.2 MB with a budget of 1,024 tokens",
        "KV at 32,768 tokens 5.8 MB in full, 0.2 MB with a budget of 1,024 tokens",
    ]
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["openvino", "-m", "{model}", "new"], "new"),
        (["openvino", "new", "-m", "{model}"], "new"),
        (["openvino", "-m", "{model}"], "openvino"),
        (["-m", "{model}", "openvino"], "openvino"),
    ],
)
def test_a_command_line_of_optimum_can_be_pasted(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    output: str,
) -> None:
    here = lambda make, options, progress, verbose: make(options, progress)  # noqa: E731
    monkeypatch.setattr("ov_kvcrush.export.child_process.run_in_child", here)
    monkeypatch.chdir(tmp_path)
    arguments = [word.format(model=model) for word in words]
    assert run(["export", *arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith(f"{output} (estimated")


def test_the_current_folder_is_filled_with_all_standard_streams_closed(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    shell = 'cd "$1" && exec "$2" -m ov_kvcrush export -m "$3" . --no-calibrate <&- >&- 2>&-'
    arguments = [str(tmp_path / "here"), sys.executable, str(model)]
    process = subprocess.run(["sh", "-c", shell, "sh", *arguments])
    assert process.returncode == 2  # the summary could not be shown
    assert KVPlan.load(tmp_path / "here") is not None
    assert not [name for name in os.listdir(tmp_path / "here") if "partial" in name]


def test_a_full_disk_is_told_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    process = subprocess.run(
        [*COMMAND, "-m", str(model), str(tmp_path / "output")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )
    assert process.returncode == 2
    message, hint = process.stderr.splitlines()[-2:]
    assert message.endswith("a file cannot be written")
    assert "disk" in hint
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["Ctrl+C", "terminate", "closed terminal"],
)
def test_a_stopped_export_leaves_what_was_there(
    tmp_path: Path, model: Path, number: signal.Signals, code: int
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / "openvino_model.xml").write_text("an old model")
    process = subprocess.Popen(
        [*COMMAND, "-m", str(model), str(output), "--overwrite"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # nohup, if the tests run under it, ignores closed terminals, and so would the export.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "Export to OpenVINO" in line:
            break
    assert len(os.listdir(output)) == 2  # the old model, and the work in progress
    process.send_signal(number)
    told = f"interrupted: nothing was written to {output}\n" if code == 130 else ""
    # A signal in the middle of writing a line may have it written twice.
    assert process.stderr.read().removeprefix(line) == told
    assert process.wait(timeout=30) == code
    assert sorted(os.listdir(tmp_path)) == ["model", "output"]
    assert os.listdir(output) == ["openvino_model.xml"]
    assert (output / "openvino_model.xml").read_text() == "an old model"
