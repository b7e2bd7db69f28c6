"""The export command with a GGUF file: whole runs, estimates, and what it refuses in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ov_kvcrush.cli import run
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.precisions import LayerPrecision
from tests.support.gguf_factory import write_gguf
from tests.support.paths import ROOT
from tests.support.terminal import CTRL_C, Terminal

COMMAND = [sys.executable, "-m", "ov_kvcrush"]
# Only the extras have these; with them hidden, everything is as after a plain pip install.
EXTRAS = ("torch", "transformers", "nncf", "optimum", "datasets", "huggingface_hub", "tokenizers")

# Python imports sitecustomize at its start.
_HIDE = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name in {!r} else find_spec(name, *rest)
"""


@pytest.fixture
def without_extras(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command where only the base dependencies are installed."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(_HIDE.format(EXTRAS))

    def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "hidden")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return run_command


def test_from_a_file_to_a_chat_without_pytorch(
    without_extras: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    model = write_gguf(tmp_path / "model.gguf", weights="Q4_1")
    output = tmp_path / "output"
    flags = ["--value-cache-precision", "u4", "--json", "--no-calibrate"]
    process = without_extras("export", "-m", str(model), str(output), *flags)
    assert process.returncode == 0, process.stderr
    assert process.stderr.splitlines() == [
        "[1/4] Convert the GGUF file to OpenVINO",
        "[2/4] Set right what was rounded",
        "[3/4] Try the tokenizer",
        "[4/4] Set the KV cache to u8/u4 and try it",
    ]
    summary = json.loads(process.stdout)
    assert summary["weights"]["format"] == "Q4_1"
    assert summary["weights"]["gguf"] == "model.gguf"
    plan = KVPlan.load(output)
    assert plan is not None
    assert plan.precisions == (LayerPrecision("u8", "u4"),) * 2
    assert (plan.model_type, plan.context_length) == ("llama", 512)
    assert {"openvino", "openvino-genai", "gguf"} <= set(plan.made_with)
    assert not {"torch", "nncf", "optimum-intel"} & set(plan.made_with)
    answered = without_extras("chat", str(output), "--prompt", "Hi", "--max-new-tokens", "4")
    assert answered.returncode == 0, answered.stderr


def test_it_is_calibrated_as_any_other_export(
    without_extras: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    model = write_gguf(tmp_path / "model.gguf")
    process = without_extras("export", "-m", str(model), str(tmp_path / "output"))
    assert process.returncode == 0, process.stderr
    assert "[5/6] Measure which heads look back" in process.stderr


def test_precisions_from_a_file_and_by_calibration(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf")
    chosen = {"0": {"key": "u8", "value": "u8"}, "1": {"key": "u8", "value": "u4"}}
    (tmp_path / "kv.json").write_text(json.dumps(chosen))
    for name, kv_plan in (("given", str(tmp_path / "kv.json")), ("auto", "auto")):
        flags = ["--kv-plan", kv_plan, *(["--no-calibrate"] if name == "given" else [])]
        assert run(["export", "-m", str(model), str(tmp_path / name), *flags]) == 0
        plan = KVPlan.load(tmp_path / name)
        assert plan is not None
        assert (plan.calibration is not None) == (name == "auto")


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_gguf(tmp_path / "model.gguf", weights="Q5_0")
    assert run(["export", "-m", str(model), str(tmp_path / "output"), "--dry-run", "--json"]) == 0
    shown = capsys.readouterr()
    estimate = json.loads(shown.out)
    assert "does not know Q5_0: those weights are stored in Q8_0" in shown.err
    assert os.listdir(tmp_path) == ["model.gguf"]
    arguments = ["-m", str(model), str(tmp_path / "output"), "--no-calibrate", "--json"]
    assert run(["export", *arguments]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["kv_bytes_at"] == estimate["kv_bytes_at"]
    assert made["layers"] == estimate["layers"]
    size, estimated = (one["weights"]["size_bytes"] for one in (made, estimate))
    assert abs(estimated - size) < 0.05 * size


def test_a_base_model_has_no_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_gguf(tmp_path / "model.gguf", template=None)
    output = tmp_path / "output"
    assert run(["export", "-m", str(model), str(output), "--no-calibrate"]) == 0
    assert "the model holds no chat template: chats with it need one" in capsys.readouterr().err
    assert not (output / "chat_template.jinja").exists()


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf")
    with Terminal("export", "-m", str(model), str(tmp_path / "output")) as terminal:
        terminal.read_until("Fit the gate")
        terminal.type(CTRL_C)
        terminal.read_until("interrupted: nothing was written")
        assert terminal.wait() == 130
    assert os.listdir(tmp_path) == ["model.gguf"]


def test_overwriting_needs_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = write_gguf(tmp_path / "model.gguf"), tmp_path / "output"
    arguments = ["export", "-m", str(model), str(output), "--no-calibrate"]
    assert run(arguments) == 0
    assert run(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run([*arguments, "--overwrite"]) == 0


class TestRefusals:
    """One line that says what is wrong, one that says what to do, and nothing is written."""

    @pytest.mark.parametrize(
        ("architecture", "settings", "message"),
        [
            ("gemma3", {}, "its architecture is gemma3, and those read are llama, qwen2, qwen3"),
            ("llama", {"fields": {"llama.expert_count": 8}}, "a mixture of experts"),
            ("llama", {"fields": {"general.type": "adapter"}}, "holds a GGUF adapter, not a model"),
            ("llama", {"fields": {"tokenizer.ggml.model": "llama"}}, "tokenizer is SentencePiece"),
            ("llama", {"fields": {"tokenizer.ggml.pre": "tekken"}}, "splits texts as tekken"),
            ("llama", {"fields": {"tokenizer.ggml.pre": None}}, "the file does not tell"),
            ("llama", {"fields": {"tokenizer.ggml.merges": None}}, "holds no vocabulary"),
            ("llama", {"fields": {"llama.rope.scaling.type": "yarn"}}, "stretches positions"),
            ("llama", {"fields": {"llama.rope.dimension_count": 32}}, "turn 32 of 64 elements"),
            ("llama", {"fields": {"llama.block_count": None}}, "not tell llama.block_count"),
            ("llama", {"fields": {"llama.block_count": 3}}, "it lacks blk.2.attn_q.weight"),
            ("llama", {"fields": {"llama.attention.head_count": 8}}, "where 64 × 256 is meant"),
            ("llama", {"fields": {"general.file_type": None}}, "not tell general.file_type"),
            ("llama", {"without": ("output_norm.weight",)}, "it lacks output_norm.weight"),
            ("qwen3", {"without": ("blk.0.attn_q_norm.weight",)}, "blk.0.attn_q_norm.weight"),
            ("llama", {"fields": {"llama.block_count": "two"}}, "llama.block_count cannot be read"),
        ],
        ids=str,
    )
    def test_what_the_reader_cannot_read(
        self,
        refused: Callable[..., tuple[str, str]],
        tmp_path: Path,
        architecture: str,
        settings: dict[str, Any],
        message: str,
    ) -> None:
        model = write_gguf(tmp_path / "model.gguf", architecture, **settings)
        shown = refused(model)
        assert message in shown[0]
        assert shown[1]

    def test_weights_that_it_would_leave_out(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path
    ) -> None:
        further = {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}
        model = write_gguf(tmp_path / "model.gguf", tensors=further)
        assert "that the reader leaves out: blk.0.attn_sinks.weight" in refused(model)[0]

    @pytest.mark.parametrize(
        "flags",
        [
            ["--weight-format", "int8"],
            ["--weight-format", "int4", "--awq", "--dataset", "wikitext2"],
            ["--ratio", "0.8"],
            ["--dataset", "wikitext2"],
            ["--trust-remote-code"],
            ["--cache-dir", "somewhere"],
            ["--variant", "fp16"],
            ["--balance-values"],
        ],
        ids=" ".join,
    )
    def test_options_for_other_models(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path, flags: list[str]
    ) -> None:
        model = write_gguf(tmp_path / "model.gguf")
        message, hint = refused(model, *flags)
        assert flags[0] in message
        assert "its weights stay as they are quantized there" in message
        assert "Hugging Face model" in hint
        model.rename(tmp_path / "model")  # known by its first bytes
        assert flags[0] in refused(tmp_path / "model", *flags)[0]

    @pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
    def test_a_file_that_is_cut_off(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path, share: float
    ) -> None:
        model = write_gguf(tmp_path / "model.gguf")
        os.truncate(model, int(share * model.stat().st_size))
        message, hint = refused(model)
        assert str(model) in message
        assert "Download it again." in hint

    @pytest.mark.parametrize("at", range(0, 600, 50))
    def test_bytes_that_are_wrong(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path, at: int
    ) -> None:
        model = write_gguf(tmp_path / "model.gguf")
        content = bytearray(model.read_bytes())
        content[at : at + 50] = b"\xff" * 50
        model.write_bytes(content)
        message, hint = refused(model)
        assert message
        assert hint

    def test_parts_of_a_split_model(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path
    ) -> None:
        write_gguf(tmp_path / "model.gguf", split=10)
        first, second, *_ = sorted(tmp_path.iterdir())
        message, hint = refused(second)
        assert "is file 2 of the" in message
        assert str(first) in hint
        second.unlink()
        message, hint = refused(first)
        assert f"of which are missing: {second.name}" in message
        assert "gguf-split --merge" in hint
        first.rename(tmp_path / "whole.gguf")
        message, hint = refused(tmp_path / "whole.gguf")
        assert "not named like one" in message
        assert "gguf-split --merge" in hint

    def test_a_folder_of_gguf_files(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path
    ) -> None:
        write_gguf(tmp_path / "models" / "one.gguf")
        message, hint = refused(tmp_path / "models")
        assert "holds no Hugging Face model, but a GGUF file" in message
        assert hint == f"Give it by its own name: -m {tmp_path / 'models' / 'one.gguf'}"
        (tmp_path / "models" / "two.gguf").touch()
        assert "but 2 GGUF files" in refused(tmp_path / "models")[0]

    def test_no_such_file(self, refused: Callable[..., tuple[str, str]]) -> None:
        message, hint = refused("nowhere.gguf")
        assert message == "no such file: nowhere.gguf"
        assert "a GGUF file" in hint

    def test_an_output_that_holds_it(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path
    ) -> None:
        model = write_gguf(tmp_path / "output" / "model.gguf")
        message, _ = refused(model, "--overwrite")
        assert "would replace the model it is made from" in message

    def test_precisions_for_another_number_of_layers(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path
    ) -> None:
        model = write_gguf(tmp_path / "model.gguf")
        (tmp_path / "kv.json").write_text('{"0": {"key": "u8", "value": "u4"}}')
        assert "and the model has 2" in refused(model, "--kv-plan", str(tmp_path / "kv.json"))[0]

    def test_calibrated_precisions_without_the_package_that_measures_them(
        self,
        without_extras: Callable[..., subprocess.CompletedProcess[str]],
        tmp_path: Path,
    ) -> None:
        model = write_gguf(tmp_path / "model.gguf")
        output = str(tmp_path / "output")
        process = without_extras("export", "-m", str(model), output, "--kv-plan", "auto")
        assert process.returncode == 2
        message, hint = process.stderr.splitlines()
        assert "needs the package nncf, which is missing" in message
        assert "pip install" in hint
