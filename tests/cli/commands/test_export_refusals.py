"""What the export command refuses before anything heavy starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ov_kvcrush.cli import run
from tests.support.paths import ROOT

COMMAND = [sys.executable, "-m", "ov_kvcrush", "export"]


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
        (tmp_path / "model.bin").touch()
        assert "is a file, not a Hugging Face model" in refused(tmp_path / "model.bin")[0]

    def test_a_folder_of_something_else(
        self, refused: Callable[..., tuple[str, str]], tmp_path: Path
    ) -> None:
        assert "holds no Hugging Face model" in refused(tmp_path)[0]
        (tmp_path / "adapter_config.json").touch()
        message, hint = refused(tmp_path)
        assert "an adapter (LoRA)" in message
        assert "Merge" in hint

    def test_a_file_that_does_not_exist(self, refused: Callable[..., tuple[str, str]]) -> None:
        assert refused("model.gguf")[0] == "no such file: model.gguf"

    def test_a_name_that_no_file_system_takes(
        self, refused: Callable[..., tuple[str, str]]
    ) -> None:
        assert "File name too long" in refused("x" * 300)[0]

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

    @pytest.mark.parametrize(
        "header",
        [b"[]", b"{}", b'{"a": 1}', b'{"a": {"shape": "x", "data_offsets": [0, 4]}}'],
    )
    def test_a_header_that_is_none(
        self, refused: Callable[..., tuple[str, str]], model: Path, header: bytes
    ) -> None:
        content = len(header).to_bytes(8, "little") + header + bytes(64)
        (model / "model.safetensors").write_bytes(content)
        message, _ = refused(model)
        assert "is damaged or only partly downloaded" in message or "holds no weights" in message

    def test_missing_weights(self, refused: Callable[..., tuple[str, str]], model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        write_config(model, **config | {"num_hidden_layers": 3})
        assert "lacks weights that its config.json asks for" in refused(model)[0]

    @pytest.mark.parametrize(
        "changes",
        [
            {"dtype": "bflot16"},
            {"architectures": 7},
            {"architectures": [["LlamaForCausalLM"]]},
            {"num_attention_heads": "4"},
            {"sliding_window": 1.5},
            {"hidden_act": "frobnicate"},
            {"rope_parameters": {"rope_type": "frobnicate"}},
        ],
        ids=str,
    )
    def test_a_configuration_with_values_that_cannot_be(
        self, refused: Callable[..., tuple[str, str]], model: Path, changes: dict[str, object]
    ) -> None:
        config = json.loads((model / "config.json").read_text())
        write_config(model, **config | changes)
        message, hint = refused(model)
        assert "config" in message
        assert "config.json" in hint

    @pytest.mark.parametrize(
        ("name", "content"),
        [("tokenizer.json", "{"), ("tokenizer_config.json", "["), ("generation_config.json", "7")],
    )
    def test_files_that_are_broken(
        self, refused: Callable[..., tuple[str, str]], model: Path, name: str, content: str
    ) -> None:
        (model / name).write_text(content)
        assert "cannot be" in refused(model)[0]

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
            (["--weight-format", "int4", "--dataset", "wiki"], "neither a file nor", "wikitext2"),
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


class TestPlacesThatCannotBeWritten:
    def test_an_existing_model(
        self, refused: Callable[..., tuple[str, str]], model: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken" / "openvino_model.xml").touch()
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

    def test_the_folder_around_the_model(
        self, refused: Callable[..., tuple[str, str]], model: Path, tmp_path: Path
    ) -> None:
        assert "would replace the model" in refused(model, output=tmp_path)[0]
        assert "/ would replace the model" in refused(model, output=Path("/"))[0]

    def test_no_name(self, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["export", "-m", str(model), ""]) == 2
        assert "it is empty" in capsys.readouterr().err


def test_optimums_spelling_of_cache_dir_is_taken(
    refused: Callable[..., tuple[str, str]], model: Path
) -> None:
    for flag in ("--cache_dir", "--cache-dir"):
        assert "no such folder" in refused("./nowhere/at/all", flag, "cache")[0]
