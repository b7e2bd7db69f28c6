"""Precisions by layer: what is stored wrongly, what that does, and what the export makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export import ExportOptions, estimate_model, export_model
from ov_kvcrush.export.kv_plan.plan_file import read_kv_file
from ov_kvcrush.export.kv_plan.planner import HarmTable, Target, candidates, measure_harm
from ov_kvcrush.export.kv_plan.sensitivity import (
    EXACT,
    SensitivityTrial,
    kl_divergence,
    read_output,
)
from ov_kvcrush.export.kv_plan.storage_errors import Storage, quantized_keys, quantized_values
from ov_kvcrush.export.texts.passages import read_tokens, spread_passages
from ov_kvcrush.export.trial import can_try_out
from ov_kvcrush.plan import KVPlan, LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.pages import key_codec
from tests.support.batches import batch
from tests.support.engines import F32
from tests.support.model_factory import make_model

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's

U8, U4 = LayerPrecision("u8", "u8"), LayerPrecision("u4", "u4")


@pytest.fixture(scope="module")
def passages(needle_int8_dir: Path) -> list[list[int]]:
    return spread_passages(read_tokens(needle_int8_dir), 3, 160)


@pytest.fixture(scope="module")
def table(needle_int8_dir: Path, passages: list[list[int]]) -> HarmTable:
    plan = KVPlan.load(needle_int8_dir)
    assert plan is not None
    trial = SensitivityTrial(needle_int8_dir, passages)
    return measure_harm(needle_int8_dir, trial, plan.layers, passages)


@pytest.mark.parametrize("group", [0, 16])
@pytest.mark.parametrize("kind", ["u8", "u4"])
def test_errors_are_those_of_the_plugins_own_bytes(
    needle_f32_dir: Path, kind: str, group: int
) -> None:
    tokens = np.random.default_rng(1).integers(8, 5000, 96).tolist()

    def first_layer(precision: LayerPrecision) -> PagedModel:
        model = PagedModel(needle_f32_dir, precisions=precision, properties=F32)
        model.reserve([3] * 8)
        model.forward(batch(model, tokens, 0, [0]))
        return model

    exact = first_layer(EXACT).memories[0]
    keys = exact.keys.view(np.float32).reshape(3, 4, 32, 64).transpose(1, 0, 2, 3)
    values = exact.values.view(np.float32).reshape(3, 4, 32, 64).transpose(1, 0, 2, 3)
    keys, values = keys.reshape(4, 96, 64), values.reshape(4, 96, 64)
    stored = first_layer(LayerPrecision(kind, kind, value_group_size=group)).memories[0]
    read = np.empty((32, 64), np.float32)
    for head in range(4):
        key_codec.read_keys(stored.keys[1, head], key_codec.KEY_KINDS[kind], 32, 64, read)
        ours = quantized_keys(keys, Storage(kind))[head, 32:64]
        # What lies halfway between two codes may be rounded either way.
        assert (np.abs(ours - read) > 1e-5).mean() < 0.002
        # Values: the scale, the zero and the codes of one group of a token after the other.
        groups = stored.values[1, head, 5].reshape(64 // (group or 64), -1)
        scale, zero = np.ascontiguousarray(groups[:, :8]).view(np.float32).T
        codes = groups[:, 8:]
        if kind == "u4":
            codes = np.stack([codes >> 4, codes & 15], axis=2).reshape(len(groups), -1)
        theirs = (codes.astype(np.float32) - zero[:, None]) * scale[:, None]
        ours = quantized_values(values, Storage(kind, group))[head, 32 + 5]
        assert (np.abs(ours - theirs.ravel()) > 1e-5).sum() <= 1


def test_candidates_are_what_every_head_can_be_divided_into() -> None:
    assert len(candidates([LayerGeometry(12, 4, 64, 64)] * 2)) == 8
    assert len(candidates([LayerGeometry(4, 2, 16, 16)])) == 4
    groups = {p.value_group_size for p in candidates([LayerGeometry(4, 2, 48, 48)])}
    assert groups == {0, 16}


def test_what_was_not_measured_is_predicted_well(
    needle_int8_dir: Path, passages: list[list[int]], table: HarmTable
) -> None:
    trial = SensitivityTrial(needle_int8_dir, passages)
    for number in (0, 6):
        for precision in (LayerPrecision("u8", "u4", value_group_size=16), U4):
            predicted = table.harms[number][table.precisions.index(precision)]
            assert trial.harm(number, precision) == pytest.approx(predicted, rel=0.25)
    assert trial.harm(3, EXACT) == 0


def test_harm_adds_up_over_layers(
    needle_int8_dir: Path, passages: list[list[int]], table: HarmTable
) -> None:
    exact = read_output(needle_int8_dir, [EXACT] * 8, passages)
    low = read_output(needle_int8_dir, [U4] * 8, passages)
    found = kl_divergence(exact.log_probabilities, low.log_probabilities)
    column = table.precisions.index(U4)
    assert found == pytest.approx(sum(layer[column] for layer in table.harms), rel=0.3)
    assert exact.perplexity < 1.1 * low.perplexity


def test_a_target_is_met_by_the_best_there_is(table: HarmTable) -> None:
    whole = sum(layer[0] for layer in table.sizes)
    small = table.choose(Target())
    assert small.num_bytes <= 0.75 * whole
    harms = [table.choose(Target(kv_bytes_per_token=part * whole)).harm for part in (0.6, 0.8, 1)]
    assert harms == sorted(harms, reverse=True)
    least = table.choose(Target(max_drop=small.harm))
    assert least.num_bytes <= small.num_bytes
    assert least.harm <= small.harm


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(kv_bytes_per_token=100), "no KV plan takes less than 2,816 bytes a token"),
        (Target(max_drop=1e-9), "no KV plan diverges by less than"),
    ],
)
def test_targets_that_cannot_be_met_are_refused(
    table: HarmTable, target: Target, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        table.choose(target)


def test_an_export_calibrates_and_the_engine_obeys(tmp_path: Path) -> None:
    source = make_model(tmp_path / "source", num_hidden_layers=3, head_dim=32)
    chosen = ExportOptions(
        model=str(source), output=tmp_path / "model", weight_format="fp32", kv_plan="auto"
    )
    plan = export_model(chosen)
    assert plan == KVPlan.load(tmp_path / "model")
    assert len(set(plan.precisions)) > 1
    found = plan.calibration
    assert found is not None
    assert len(found.predicted_kl) == len(found.measured_kl) == 3
    outputs = found.outputs
    in_bf16 = ["bf16 (model and cache)"] * can_try_out(LayerPrecision("bf16", "bf16"))
    assert list(outputs) == ["f32", *in_bf16, "u8/u8", "u8/u4", "u4/u4", "plan"]
    for name in in_bf16:
        assert 2 * outputs[name].bytes_per_token == outputs["f32"].bytes_per_token
        assert outputs[name].kl > 0
    assert outputs["plan"].bytes_per_token == plan.kv_bytes_per_token
    assert plan.kv_bytes_per_token <= 0.75 * outputs["u8/u8"].bytes_per_token
    assert outputs["f32"].kl == 0 < outputs["u8/u8"].kl < outputs["u4/u4"].kl
    model = PagedModel(tmp_path / "model", precisions=plan.precisions)
    assert model.kv_bytes_per_token == plan.kv_bytes_per_token


def test_a_plan_of_ones_own_is_exported_and_obeyed(tiny_source_dir: Path, tmp_path: Path) -> None:
    from openvino_genai import Tokenizer

    path = tmp_path / "kv.json"
    u8, u4 = ({"key": kind, "value": kind} for kind in ("u8", "u4"))
    path.write_text(json.dumps({"0": u8, "1": u4}))
    chosen = ExportOptions(model=str(tiny_source_dir), output=tmp_path / "model", kv_plan=str(path))
    assert estimate_model(chosen).precisions == (U8, U4)
    plan = export_model(chosen)
    assert plan.precisions == (U8, U4)
    engine = PagedEngine(tmp_path / "model", Tokenizer(tmp_path / "model"))
    assert engine.describe()["layer_precisions"] == {"0": "u8/u8", "1": "u4/u4"}
    assert engine.describe()["kv_bytes_per_token"] == plan.kv_bytes_per_token
    # What an export wrote can be given to another.
    assert read_kv_file(tmp_path / "model" / "ov_kvcrush.json") == plan.precisions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "names no layers"),
        ('{"0": {"key": "u8", "value": "u8"}}', "is for 1 layers, and the model has 2"),
        ('{"0-1": {"key": "u8", "value": "f32"}}', "cannot hold keys in u8"),
        ('{"1": {"key": "u8", "value": "u8"}}', "layer 0 is in no range"),
    ],
)
def test_files_that_are_not_a_plan_for_the_model_are_refused(
    tiny_source_dir: Path, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "kv.json"
    path.write_text(text)
    chosen = ExportOptions(model=str(tiny_source_dir), output=tmp_path / "model", kv_plan=str(path))
    with pytest.raises(ConfigError, match=message):
        estimate_model(chosen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_drop": 0.1}, "--max-drop is for a plan that is calibrated"),
        ({"kv_plan": "kv.json", "kv_dataset": "a.txt"}, "--kv-dataset is for a plan"),
        ({"kv_plan": "auto", "max_drop": 0.1, "kv_bytes_per_token": 9.0}, "are two targets"),
        ({"kv_plan": "auto", "max_drop": -1.0}, "--max-drop is -1, not above 0"),
        ({"kv_plan": "auto", "value_cache_precision": "u4"}, "another one was given for all"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportOptions(model="m", output=Path("o"), **settings)
