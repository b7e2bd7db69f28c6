from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export import ExportOptions
from ov_kvcrush.precisions import LayerPrecision


def options(**settings: Any) -> ExportOptions:
    return ExportOptions(model="model", output=Path("output"), **settings)


def test_keys_and_values_are_stored_in_u8_unless_told_otherwise() -> None:
    assert options().kv_precision == LayerPrecision("u8", "u8")


def test_kv_settings_become_a_layer_precision() -> None:
    chosen = options(value_cache_precision="u4", value_cache_group_size=32)
    assert chosen.kv_precision == LayerPrecision("u8", "u4", 0, 32)


@pytest.mark.parametrize("task", ["auto", "causal-lm-with-past", "text-generation-with-past"])
def test_every_name_of_the_task_is_taken(task: str) -> None:
    assert options(task=task).task == task


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"task": "text-generation"}, "without its past has no KV cache", "with-past"),
        ({"task": "fill-mask"}, "only text generation has a KV cache", "optimum-cli"),
        ({"library": "diffusers"}, "--library diffusers", "optimum-cli"),
        ({"framework": "tf"}, "--framework tf", "pt"),
        ({"weight_format": "in4"}, "'in4' is not known", "'int4'"),
        ({"key_cache_precision": "u16"}, "'u16' is not known", "u8"),
        ({"value_cache_precision": "bf16"}, "cannot hold keys in u8 with values in bf16", "u8/u4"),
        ({"value_cache_group_size": -1}, "below 0", "0 leaves"),
        (
            {
                "key_cache_precision": "bf16",
                "value_cache_precision": "bf16",
                "value_cache_group_size": 32,
            },
            "no meaning for bf16",
            "u8 or u4",
        ),
        ({"awq": True}, "--awq compress weights, but the weight format is none", "int4"),
        ({"weight_format": "fp16", "ratio": 0.5}, "format is --weight-format fp16", "int4"),
        ({"weight_format": "int4", "ratio": 0.0}, "outside 0 to 1", "int8"),
        ({"weight_format": "int4", "ratio": 1.5}, "outside 0 to 1", "int8"),
        ({"weight_format": "int4", "num_samples": 0}, "--num-samples is 0", ""),
        ({"weight_format": "int8", "ratio": 0.5}, "--ratio is for 4-bit", "int4"),
        ({"weight_format": "int8", "group_size": 64}, "--group-size is for 4-bit", "int4"),
        ({"weight_format": "int8", "all_layers": True}, "--all-layers is for 4-bit", "int4"),
    ],
)
def test_contradictions_are_refused_with_a_way_out(
    settings: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        options(**settings)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_what_optimum_takes_for_int8_without_effect_is_taken_too() -> None:
    assert options(weight_format="int8", ratio=1.0, group_size=-1, sym=True).compresses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_drop": 0.1}, "--max-drop is for a plan that is calibrated"),
        ({"kv_plan": "kv.json", "kv_dataset": "a.txt"}, "--kv-dataset is for a plan"),
        ({"kv_plan": "auto", "calibrate": False}, "--no-calibrate asks for no measurements"),
        ({"texts": ("a.txt",), "calibrate": False}, "--texts is for measurements"),
        ({"kv_plan": "auto", "max_drop": 0.1, "kv_bytes_per_token": 9.0}, "are two targets"),
        ({"kv_plan": "auto", "max_drop": -1.0}, "--max-drop is -1, not above 0"),
        ({"kv_plan": "auto", "value_cache_precision": "u4"}, "another one was given for all"),
    ],
)
def test_contradictions_of_a_kv_plan_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(**settings)
