"""Real exports, by real Optimum and NNCF, of tiny models."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import openvino_genai
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export import ExportOptions, estimate_model, export_model
from ov_kvcrush.plan import PLAN_VERSION, KVPlan, LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.plugin.core import core
from tests.support.model_factory import ARCHITECTURES, SLIDING_WINDOW, make_model
from tests.support.paths import NEEDLE

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's

TEXT = "The quick brown fox jumps over the lazy dog, and nobody asked why. " * 200
SECRET = "calibration text of my own"

HEAD_SIZES = {"Qwen3": 32, "Gemma": 32, "Gemma2": 32, "Gemma3": 32}
WINDOWS = {
    "Mistral": (SLIDING_WINDOW, SLIDING_WINDOW),
    "Phi3": (SLIDING_WINDOW, SLIDING_WINDOW),
    "Gemma2": (SLIDING_WINDOW, 0),
    "Gemma3": (SLIDING_WINDOW, 0),
}


class Recorder:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.notes: list[str] = []

    def step(self, number: int, total: int, title: str) -> None:
        self.steps.append(f"{number}/{total} {title}")

    def advance(self, share: float) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def options(model: Path, output: Path, **settings: Any) -> ExportOptions:
    return ExportOptions(model=str(model), output=output, **settings)


def test_the_plan_says_what_the_model_is(needle_int8_dir: Path) -> None:
    plan = KVPlan.load(needle_int8_dir)
    assert plan is not None
    assert plan.model_type == "llama"
    assert plan.layers == (LayerGeometry(12, 4, 64, 64),) * 8
    assert plan.precisions == (LayerPrecision("u8", "u8"),) * 8
    # Keys: 64 bytes, and 8 bytes of scales a channel shared by 32 tokens. Values: 64 bytes and 8.
    assert plan.kv_bytes_per_token == 8 * 4 * ((64 + 8 * 64 / 32) + (64 + 8))
    assert plan.context_length == 8192
    assert plan.weights["format"] == "int8_asym"
    assert {"openvino", "optimum-intel", "nncf", "transformers"} <= set(plan.made_with)


def test_openvino_genai_runs_what_was_exported(needle_int8_dir: Path) -> None:
    pipeline = openvino_genai.LLMPipeline(str(needle_int8_dir), "CPU")
    answer = pipeline.generate("Paul said that the key was 4711. The key was", max_new_tokens=8)
    assert len(str(answer)) > 0


def test_a_pasted_optimum_command_gives_optimums_weights(
    tiny_source_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optimum.commands.optimum_cli import main as optimum_cli

    command = (
        f"optimum-cli export openvino -m {tiny_source_dir} --task text-generation-with-past "
        f"--weight-format int4 --ratio 0.5 --group-size 32 --sym --all-layers {tmp_path}/theirs"
    )
    monkeypatch.setattr("sys.argv", command.split())
    optimum_cli()
    same = {"ratio": 0.5, "group_size": 32, "sym": True, "all_layers": True, "calibrate": False}
    plan = export_model(options(tiny_source_dir, tmp_path / "ours", weight_format="int4", **same))
    ours, theirs = (tmp_path / name / "openvino_model.bin" for name in ("ours", "theirs"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert plan.weights["format"] == "int4_sym"
    assert plan.weights["ratio"] == 0.5
    assert plan.weights["group_size"] == 32
    assert plan.weights["all_layers"] is True


def test_calibration_on_a_text_of_ones_own(tiny_source_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(SECRET + TEXT)
    chosen = options(
        tiny_source_dir,
        tmp_path / "model",
        weight_format="int4",
        group_size=32,
        awq=True,
        scale_estimation=True,
        dataset=str(tmp_path / "notes.txt"),
        num_samples=4,
        value_cache_precision="u4",
        value_cache_group_size=16,
    )
    progress = Recorder()
    plan = export_model(chosen, progress)
    assert plan.weights["methods"] == ["awq", "scale_estimation"]
    assert plan.precisions == (LayerPrecision("u8", "u4", 0, 16),) * 2
    (note,) = progress.notes
    assert "no head was found to look back" in note
    assert progress.steps == [
        "1/6 Convert the tokenizer",
        "2/6 Export to OpenVINO",
        "3/6 Compress weights to int4",
        "4/6 Set the KV cache to u8/u4 and try it",
        "5/6 Measure which heads look back",
        "6/6 Fit the gate",
    ]
    for file in (tmp_path / "model").iterdir():
        assert SECRET.encode() not in file.read_bytes(), file.name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_geometry_is_right_for_every_architecture(architecture: str, tmp_path: Path) -> None:
    source = make_model(tmp_path / "source", architecture)
    chosen = options(source, tmp_path / "model")
    try:
        estimated = estimate_model(chosen)
    except ExportError as error:
        # Optimum takes some architectures only with certain releases of transformers.
        if "with transformers at most" not in error.message:
            raise
        pytest.skip(error.message)
    plan = export_model(chosen)
    head_size = HEAD_SIZES.get(architecture, 16)
    windows = WINDOWS.get(architecture, (0, 0))
    assert plan.layers == tuple(LayerGeometry(4, 2, head_size, head_size, w) for w in windows)
    assert plan == KVPlan.load(tmp_path / "model")
    assert estimated.layers == plan.layers
    assert estimated.kv_bytes_per_token == plan.kv_bytes_per_token
    assert estimated.context_length == plan.context_length == 512
    assert estimated.weights["format"] == plan.weights["format"] == "fp32"
    sizes = [made.weights["size_bytes"] for made in (estimated, plan)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_the_size_of_int8_weights_is_estimated(needle_int8_dir: Path, tmp_path: Path) -> None:
    estimated = estimate_model(options(NEEDLE, tmp_path / "model", weight_format="int8"))
    exported = KVPlan.load(needle_int8_dir)
    assert exported is not None
    sizes = [made.weights["size_bytes"] for made in (estimated, exported)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_the_size_of_int4_weights_is_estimated(tmp_path: Path) -> None:
    source = make_model(tmp_path / "source", hidden_size=256, intermediate_size=1024)
    settings = {"weight_format": "int4", "ratio": 0.8, "group_size": 64, "calibrate": False}
    chosen = options(source, tmp_path / "model", **settings)
    sizes = [make(chosen).weights["size_bytes"] for make in (estimate_model, export_model)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_fp16_weights_halve_the_model(tiny_source_dir: Path, tmp_path: Path) -> None:
    chosen = options(tiny_source_dir, tmp_path / "model", weight_format="fp16", calibrate=False)
    plans = [make(chosen) for make in (estimate_model, export_model)]
    assert [plan.weights["format"] for plan in plans] == ["fp16", "fp16"]
    sizes = [plan.weights["size_bytes"] for plan in plans]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_an_estimate_writes_nothing(tiny_source_dir: Path, tmp_path: Path) -> None:
    plan = estimate_model(options(tiny_source_dir, tmp_path / "model", weight_format="int4"))
    assert plan.fingerprint == ""
    assert os.listdir(tmp_path) == []


def test_f32_is_kept_and_its_condition_is_told(needle_f32_dir: Path) -> None:
    plan = KVPlan.load(needle_f32_dir)
    assert plan is not None
    assert plan.precisions[0] == LayerPrecision("f32", "f32")
    assert plan.kv_bytes_per_token == 8 * 4 * (64 + 64) * 4


def test_a_precision_this_cpu_cannot_store_is_set_and_not_tried(
    tiny_source_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ov_kvcrush.export.last_steps.can_try_out", lambda precision: False)
    bf16 = {"key_cache_precision": "bf16", "value_cache_precision": "bf16"}
    progress = Recorder()
    plan = export_model(options(tiny_source_dir, tmp_path / "model", **bf16), progress)
    assert progress.steps == [
        "1/3 Convert the tokenizer",
        "2/3 Export to OpenVINO",
        "3/3 Set the KV cache to bf16/bf16 and try it",
    ]
    assert [note.split(":")[0] for note in progress.notes] == ["this CPU has no bf16"]
    assert plan.precisions == (LayerPrecision("bf16", "bf16"),) * 2
    assert plan.layers == (LayerGeometry(4, 2, 16, 16),) * 2
    assert (plan.head_shares, plan.gate_measurement) == ((), None)


def test_settings_without_effect_are_told(tiny_source_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(TEXT)
    progress = Recorder()
    chosen = options(
        tiny_source_dir,
        tmp_path / "model",
        weight_format="int8",
        dataset=str(tmp_path / "notes.txt"),
        key_cache_group_size=16,
        pad_token_id=0,
        model_kwargs={"nonsense": 1},
    )
    estimate_model(chosen, progress)
    assert [note.split()[0] for note in progress.notes] == [
        "--dataset",
        "--key-cache-group-size",
        "--pad-token-id",
        "--model-kwargs",
    ]


def test_a_model_stops_where_its_checkpoint_says(tiny_source_dir: Path, tmp_path: Path) -> None:
    """The shape that Llama 2 was published in: transformers does not save it."""
    source = shutil.copytree(tiny_source_dir, tmp_path / "source")
    settings = {"eos_token_id": [2, 7], "temperature": 0.6, "max_length": 300}
    (source / "generation_config.json").write_text(json.dumps(settings))
    export_model(options(source, tmp_path / "model", weight_format="int8", calibrate=False))
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text()) == settings
    pipeline = openvino_genai.LLMPipeline(str(tmp_path / "model"), "CPU")
    assert pipeline.get_generation_config().stop_token_ids == {2, 7}


def test_weights_that_are_seen_only_when_they_load_stop_the_export(tmp_path: Path) -> None:
    """transformers merges the experts of this architecture while it loads them."""
    source = make_model(tmp_path / "source", "Mixtral", num_local_experts=2, sliding_window=None)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    progress = Recorder()
    with pytest.raises(ExportError, match=r"lacks weights .*model\.layers\.2\."):
        export_model(options(source, tmp_path / "model"), progress)
    assert progress.steps[-1] == "2/5 Export to OpenVINO"
    assert os.listdir(tmp_path) == ["source"]


def test_a_failed_compression_leaves_nothing_behind(tiny_source_dir: Path, tmp_path: Path) -> None:
    chosen = options(tiny_source_dir, tmp_path / "model", weight_format="int4", group_size=128)
    with pytest.raises(ExportError, match="does not divide the width") as caught:
        export_model(chosen)
    assert "--group-size-fallback adjust" in caught.value.hint
    assert os.listdir(tmp_path) == []


def test_a_group_size_that_does_not_fit_can_be_adjusted(
    tiny_source_dir: Path, tmp_path: Path
) -> None:
    chosen = options(
        tiny_source_dir,
        tmp_path / "model",
        weight_format="int4",
        group_size=128,
        group_size_fallback="adjust",
        calibrate=False,
    )
    assert export_model(chosen).weights["format"] == "int4_asym"


def test_a_tokenizer_that_cannot_be_converted_fails_first(
    tiny_source_dir: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_source_dir, tmp_path / "source")
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.UnicodeScripts()  # unknown to OpenVINO Tokenizers
    tokenizer.save(str(source / "tokenizer.json"))
    progress = Recorder()
    with pytest.raises(ExportError, match=r"cannot be converted: .*UnicodeScripts"):
        export_model(options(source, tmp_path / "model"), progress)
    assert progress.steps == ["1/5 Convert the tokenizer"]
    assert os.listdir(tmp_path) == ["source"]


def test_a_model_without_tokenizer_fails_first(tiny_source_dir: Path, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("tokenizer*")
    source = shutil.copytree(tiny_source_dir, tmp_path / "source", ignore=ignored)
    with pytest.raises(ExportError, match="holds no tokenizer"):
        export_model(options(source, tmp_path / "model"))
    assert os.listdir(tmp_path) == ["source"]


def test_a_folder_that_appears_meanwhile_is_left_alone(
    tiny_source_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model"

    class Meanwhile(Recorder):
        def step(self, number: int, total: int, title: str) -> None:
            if number == total:
                output.mkdir()
                (output / "somebody's").touch()

    with pytest.raises(ExportError, match="'Move the model into place': Directory not empty"):
        export_model(options(tiny_source_dir, output, calibrate=False), Meanwhile())
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(output) == ["somebody's"]


def test_overwriting_replaces_the_whole_model(tiny_source_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    output.mkdir()
    (output / "openvino_model.xml").write_text("an old model")
    (output / "stale.txt").touch()
    export_model(options(tiny_source_dir, output, overwrite=True, calibrate=False))
    assert not (output / "stale.txt").exists()
    core().read_model(output / "openvino_model.xml")
    stored = json.loads((output / "ov_kvcrush.json").read_text())
    assert stored["version"] == PLAN_VERSION
