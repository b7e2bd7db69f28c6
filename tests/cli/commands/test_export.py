"""The export command: what it refuses before anything heavy starts, and whole runs of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ov_kvcrush.cli import run
from ov_kvcrush.cli.output.plan_summary import basis_line, budget_line, precision_ranges
from ov_kvcrush.plan import KVPlan, ValueBasis
from ov_kvcrush.precisions import LayerPrecision
from tests.support.paths import ROOT

COMMAND = [sys.executable, "-m", "ov_kvcrush.cli", "export"]

# Python imports sitecustomize at its start: here, to hide a package.
_HIDE = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == {!r} else find_spec(name, *rest)
"""


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[str, str]]:
    """Runs the command in this process; returns the error and the hint it must end with."""
    here = lambda make, options, progress, verbose: make(options, progress)  # noqa: E731
    monkeypatch.setattr("ov_kvcrush.export.child_process.run_in_child", here)

    def refuse(model: Path | str, *flags: str, output: Path | None = None) -> tuple[str, str]:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert run(["export", "-m", str(model), str(output or tmp_path / "output"), *flags]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        shown = capsys.readouterr()
        assert shown.out == ""
        message, hint = shown.err.splitlines()
        return message.removeprefix("error: "), hint

    return refuse


def write_config(folder: Path, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_weights(folder: Path, num_bytes: int, stored: int | None = None) -> None:
    """A checkpoint of one tensor of ``num_bytes`` (sparse), of which ``stored`` are there."""
    tensor = {"dtype": "F16", "shape": [num_bytes // 2], "data_offsets": [0, num_bytes]}
    header = json.dumps({"weight": tensor}).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + (num_bytes if stored is None else stored))


def without_package(package: str, tmp_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """An export on a machine where ``package`` is not installed."""
    (tmp_path / "sitecustomize.py").write_text(_HIDE.format(package))
    return subprocess.run(
        [*COMMAND, *flags, str(tmp_path / "output")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def model(tmp_path: Path, tiny_source_dir: Path) -> Path:
    return shutil.copytree(tiny_source_dir, tmp_path / "model")


class TestModelsThatCannotBeExported:
    def test_no_such_folder(self, refused: Callable[..., tuple[str, str]]) -> None:
        message, hint = refused("./nowhere/to/be/found")
        assert message == "no such folder: ./nowhere/to/be/found"
        assert "config.json" in hint

    def test_a_hub_out_of_reach(self, tmp_path: Path) -> None:
        process = subprocess.run(
            [*COMMAND, "-m", "org/model", str(tmp_path / "output")],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 2
        message, _ = process.stderr.splitlines()
        assert message == "error: no such folder, and the hub cannot be reached: org/model"

    def test_a_file(self, refused: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
        (tmp_path / "model.gguf").touch()
        assert "is a GGUF file" in refused(tmp_path / "model.gguf")[0]

    def test_a_folder_of_something_else(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path
    ) -> None:
        assert "holds no Hugging Face model" in refused(tmp_path)[0]
        (tmp_path / "adapter_config.json").touch()
        message, hint = refused(tmp_path)
        assert "an adapter (LoRA)" in message
        assert "Merge" in hint

    def test_an_openvino_model(
        self, refused: Callable[..., tuple[str, str]], needle_int8_dir: Path
    ) -> None:
        assert "is an OpenVINO model already" in refused(needle_int8_dir)[0]

    def test_no_weights(self, refused: Callable[..., tuple[str, str]], model: Path) -> None:
        (model / "model.safetensors").unlink()
        assert "holds no weights" in refused(model)[0]

    def test_cut_off_weights(self, refused: Callable[..., tuple[str, str]], model: Path) -> None:
        write_weights(model, 1000, stored=900)
        message, hint = refused(model)
        assert "is cut off" in message
        assert "Download" in hint

    def test_damaged_weights(self, refused: Callable[..., tuple[str, str]], model: Path) -> None:
        (model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
        assert "damaged or only partly downloaded" in refused(model)[0]

    def test_an_architecture_without_text_generation(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path
    ) -> None:
        folder = write_config(tmp_path / "model", model_type="vit")
        write_weights(folder, 1000)
        message, hint = refused(folder)
        assert message.startswith("Optimum cannot export the architecture 'vit'")
        assert "Llama" in hint

    def test_an_unknown_architecture(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path
    ) -> None:
        folder = write_config(tmp_path / "model", model_type="frobnicator")
        write_weights(folder, 1000)
        assert "is not known to transformers" in refused(folder)[0]

    def test_a_broken_configuration(
        self, refused: Callable[..., tuple[str, str]], model: Path
    ) -> None:
        (model / "config.json").write_text("{")
        assert "the configuration of" in refused(model)[0]

    def test_code_that_was_not_trusted(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path
    ) -> None:
        folder = write_config(
            tmp_path / "model", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"}
        )
        (folder / "own.py").write_text("raise RuntimeError('this code must not run')")
        write_weights(folder, 1000)
        message, hint = refused(folder)
        assert "comes with Python code of its own" in message
        assert "--trust-remote-code" in hint

    def test_another_head(self, refused: Callable[..., tuple[str, str]], model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        write_config(model, **config | {"architectures": ["LlamaForSequenceClassification"]})
        assert "no head that predicts the next token" in refused(model)[0]

    def test_an_architecture_of_another_transformers_release(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path
    ) -> None:
        import transformers

        if int(transformers.__version__.split(".")[0]) < 5:
            pytest.skip("Optimum takes DBRX up to transformers 4")
        folder = write_config(tmp_path / "model", model_type="dbrx")
        write_weights(folder, 1000)
        message, hint = refused(folder)
        assert "with transformers at most 4.57.6" in message
        assert "pip install" in hint


class TestOptionsThatContradict:
    @pytest.mark.parametrize(
        ("flags", "message", "hint"),
        [
            (["--weight-format", "int8", "--awq"], "AWQ algorithm is not supported", "optimum-cli"),
            (["--weight-format", "mxfp4", "--gptq"], "GPTQ algorithm is not", "optimum-cli"),
            (["--weight-format", "int4", "--group-size", "0"], "`group_size` must", "optimum-cli"),
            (["--awq"], "the weight format is none", "--weight-format"),
            (["--weight-format", "int4", "--dataset", "./no.txt"], "No such file", "auto"),
            (["--value-cache-group-size", "24"], "does not divide the head size 16", "divisor"),
            (["--value-cache-precision", "bf16"], "cannot hold keys in u8", "u8/u4"),
            (["--task", "fill-mask"], "--task fill-mask is not exported", "optimum-cli"),
            (["--disable-stateful"], "--disable-stateful is not offered: without", "Leave"),
            (["--disable-convert-tokenizer"], "the engine needs the tokenizer", "Leave"),
            (["--quant-mode", "int8"], "it quantizes activations too", "Leave"),
            (["--model-kwargs", "[1]"], "not a JSON object", "{"),
            (["--kv-plan", "auto", "--kv-dataset", "gsm8k"], "neither a file nor", "wikitext2, c4"),
            (["--kv-plan", "auto", "--kv-dataset", "no.txt"], "No such file", "wikitext2, c4"),
            (
                ["--kv-cache-precision", "u4", "--key-cache-precision", "u8"],
                "contradict each other",
                "one by one",
            ),
        ],
    )
    def test_each_is_refused_with_a_way_out(
        self,
        refused: Callable[..., tuple[str, str]],
        model: Path,
        flags: list[str],
        message: str,
        hint: str,
    ) -> None:
        shown = refused(model, *flags)
        assert message in shown[0]
        assert hint in shown[1]

    @pytest.mark.parametrize(
        "flags",
        [
            ["--weight-format", "int4", "--awq", "--dataset", "wikitext2:seq_len=64"],
            ["--kv-plan", "auto", "--kv-dataset", "wikitext2"],
        ],
    )
    def test_a_data_set_without_the_package_that_reads_it(
        self, model: Path, tmp_path: Path, flags: list[str]
    ) -> None:
        process = without_package("datasets", tmp_path, "-m", str(model), *flags)
        assert process.returncode == 2
        message, hint = process.stderr.splitlines()
        assert "the data set wikitext2 is read with the package datasets, which is" in message
        assert "pip install" in hint


class TestPlacesThatCannotBeWritten:
    def test_an_existing_model(
        self, refused: Callable[..., tuple[str, str]], model: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken" / "file").touch()
        message, hint = refused(model, output=tmp_path / "taken")
        assert "exists and is not empty" in message
        assert "--overwrite" in hint

    def test_a_file(
        self, refused: Callable[..., tuple[str, str]], model: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        assert "is a file" in refused(model, output=tmp_path / "file")[0]
        assert "is a file" in refused(model, output=tmp_path / "file" / "output")[0]

    def test_the_model_itself(
        self, refused: Callable[..., tuple[str, str]], model: Path, tmp_path: Path
    ) -> None:
        (model / "openvino_model.xml").touch()
        (tmp_path / "openvino_model.xml").touch()
        for output in (model, tmp_path):
            message, _ = refused(model, "--overwrite", output=output)
            assert "would replace the model it is made from" in message

    def test_a_full_disk(
        self, refused: Callable[..., tuple[str, str]], model: Path, tmp_path: Path
    ) -> None:
        write_weights(model, shutil.disk_usage(tmp_path).free + (1 << 30))
        message, hint = refused(model)
        assert message.startswith("not enough disk: the export needs about")
        assert str(tmp_path) in message
        assert "another disk" in hint


@pytest.mark.parametrize("package", ["torch", "nncf", "optimum"])
def test_the_missing_extra_is_named(package: str, tmp_path: Path) -> None:
    process = without_package(package, tmp_path, "-m", "model")
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        f"error: exporting needs the package {package}, which is missing",
        'Run: pip install "ov-kvcrush[export]"',
    ]


def test_a_whole_export(model: Path, tmp_path: Path) -> None:
    flags = ["--weight-format", "int8", "--kv-cache-precision", "u4", "--json"]
    output = tmp_path / "new" / "output"
    process = subprocess.run(
        [*COMMAND, "-m", str(model), *flags, str(output)], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr.splitlines() == [
        "[1/5] Convert the tokenizer",
        "[2/5] Export to OpenVINO",
        "[3/5] Compress weights to int8",
        "[4/5] Set the KV cache to u4/u4 and try it",
        "[5/5] Measure which layers look back",
        "note: no layer was found to look back: all get the same part of a budget",
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
    assert len(os.listdir(tmp_path)) == 3  # model, output, and the work in progress
    process.send_signal(number)
    told = f"interrupted: nothing was written to {output}\n" if code == 130 else ""
    assert process.stderr.read() == told
    assert process.wait(timeout=30) == code
    assert sorted(os.listdir(tmp_path)) == ["model", "output"]
    assert (output / "openvino_model.xml").read_text() == "an old model"


def test_layers_that_are_stored_alike_are_shown_as_a_range() -> None:
    coarse, fine = LayerPrecision("u4", "u4", 0, 32), LayerPrecision("u8", "u8")
    assert precision_ranges((fine, coarse, coarse, fine)) == [
        "layer 0: K u8, V u8",
        "layers 1–2: K u4, V u4 (groups of 32)",
        "layer 3: K u8, V u8",
    ]


@pytest.mark.parametrize(
    ("shares", "line"),
    [
        ((0.2, 0.2, 2.2, 1.4), "layer 2: 2.2, layer 3: 1.4, others: 0.2"),
        ((0.2, 2.5, 0.2, 0.6, 1.5), "layer 1: 2.5, layer 4: 1.5, others: 0.2–0.6"),
        (
            (1.3, 1.4, 1.5, 1.2, 0.2, 0.4),
            "layer 2: 1.5, layer 1: 1.4, layer 0: 1.3, others: 0.2–1.2",
        ),
        ((1.0, 1.0), "others: 1.0"),
    ],
)
def test_the_layers_with_large_budgets_are_named(shares: tuple[float, ...], line: str) -> None:
    assert budget_line(shares) == f"{line} (1 is an even share)"


@pytest.mark.parametrize(
    ("basis", "line"),
    [
        (ValueBasis("balanced"), "balanced"),
        (
            ValueBasis("balanced", predicted_cost=(0.678, 0.341, 0.5)),
            "balanced: rounding costs 34–68 % of before (predicted)",
        ),
    ],
)
def test_the_basis_of_values_is_told(basis: ValueBasis, line: str) -> None:
    assert basis_line(basis) == line


def test_optimums_spelling_of_cache_dir_is_taken(
    refused: Callable[..., tuple[str, str]], model: Path
) -> None:
    for flag in ("--cache_dir", "--cache-dir"):
        assert "no such folder" in refused("./nowhere/at/all", flag, "cache")[0]
