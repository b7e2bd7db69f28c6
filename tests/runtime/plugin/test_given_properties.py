"""Properties a user gives: obeyed as settings of the cache, passed on, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino as ov
import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.errors import ConfigError, OVKVCrushWarning
from ov_kvcrush.runtime.model.paged_graph import read_paged_graph
from ov_kvcrush.runtime.plugin.core import core
from ov_kvcrush.runtime.plugin.given_properties import read_properties
from tests.support.engines import EXACT, engine_of


def read(
    given: Mapping[str, Any], **settings: Any
) -> tuple[tuple[str | None, str | None], dict[str, Any]]:
    """Precisions of keys and values, and what the CPU gets; nothing may be said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config, properties = read_properties("CPU", given, KVCacheConfig(**settings))
    return (config.key_cache_precision, config.value_cache_precision), properties


@pytest.mark.parametrize(
    ("given", "precisions"),
    [
        ({"KV_CACHE_PRECISION": "u8"}, ("u8", "u8")),
        ({"KV_CACHE_PRECISION": ov.Type.u4}, ("u4", "u4")),
        ({"KEY_CACHE_PRECISION": "u4"}, ("u4", None)),
        ({"KV_CACHE_PRECISION": "u8", "VALUE_CACHE_PRECISION": "u4"}, ("u8", "u4")),
        ({"KV_CACHE_PRECISION": ov.Type.dynamic}, (None, None)),
        ({"DEVICE_PROPERTIES": {"cpu": {"KV_CACHE_PRECISION": "u4"}}}, ("u4", "u4")),
    ],
)
def test_precisions_of_the_cache_become_its_settings(
    given: Mapping[str, Any], precisions: tuple[str | None, str | None]
) -> None:
    assert read(given) == (precisions, {})


def test_a_precision_may_be_said_twice_but_not_differently() -> None:
    assert read({"KV_CACHE_PRECISION": "f32"}, **EXACT)[0] == ("f32", "f32")
    with pytest.raises(ConfigError, match=r"key_cache_precision is f32 .* and u8 in the prop"):
        read({"KEY_CACHE_PRECISION": "u8"}, **EXACT)


def test_a_devices_own_properties_go_first_and_other_devices_are_others() -> None:
    given = {
        "NUM_STREAMS": 1,
        "PERF_COUNT": True,
        "DEVICE_PROPERTIES": {"CPU": {"NUM_STREAMS": 2}, "GPU": {"FOO": 3}},
    }
    assert read(given)[1] == {"NUM_STREAMS": 2, "PERF_COUNT": True}
    from_command_line = {"DEVICE_PROPERTIES": '{"CPU": {"NUM_STREAMS": 2}}'}
    assert read(from_command_line)[1] == {"NUM_STREAMS": 2}


def test_what_openvino_wraps_is_unwrapped() -> None:
    given = dict([ov.properties.hint.kv_cache_precision(ov.Type.u8)])
    assert read(given)[0] == ("u8", "u8")


@pytest.mark.parametrize(
    ("given", "mapped"), [(True, True), (False, False), ("NO", False), ("yes", True)]
)
def test_mapping_of_weights_is_passed_on(given: object, mapped: bool) -> None:
    assert read({"ENABLE_MMAP": given})[1] == {"ENABLE_MMAP": mapped}


@pytest.mark.parametrize("mode", ["OPTIMIZE_SPEED", ov.properties.CacheMode.OPTIMIZE_SIZE])
def test_how_a_cache_of_models_is_written_does_not_matter_without_one(mode: object) -> None:
    assert read({"CACHE_MODE": mode, "CACHE_DIR": ""})[1] == {}


def test_a_cache_of_models_is_left_out_with_a_note() -> None:
    with pytest.warns(OVKVCrushWarning, match=r"^CACHE_DIR is left out: .* cannot load"):
        _, properties = read_properties("CPU", {"CACHE_DIR": "cache"}, KVCacheConfig())
    assert properties == {}


def test_the_plugin_cannot_load_a_paged_model_from_its_cache(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    # Should this fail, the plugin has learned it, and CACHE_DIR ought to be passed on.
    for _ in range(2):
        model = read_paged_graph(needle_int8_dir).model
        compiled = core().compile_model(model, "CPU", {"CACHE_DIR": str(tmp_path)})
        assert not compiled.get_property("LOADED_FROM_CACHE")
    assert list(tmp_path.glob("*.blob"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"KV_CACHE_PRECISON": "u8"}, "Did you mean 'KV_CACHE_PRECISION'"),
        ({"KV_CACHE_PRECISION": "f16"}, "'f16' is not a precision of the KV cache"),
        ({"VALUE_CACHE_PRECISION": 8}, "'8' is not a precision of the KV cache"),
        ({"KEY_CACHE_GROUP_SIZE": 16}, "KEY_CACHE_GROUP_SIZE has no effect"),
        ({"VALUE_CACHE_GROUP_SIZE": "many"}, "is 'many'; it takes a whole number"),
        ({"VALUE_CACHE_GROUP_SIZE": -1}, "is -1; it takes a whole number"),
        ({"ENABLE_MMAP": "perhaps"}, "ENABLE_MMAP is 'perhaps'"),
        ({"CACHE_MODE": "FAST"}, "CACHE_MODE 'FAST' is not known"),
        ({"DEVICE_PROPERTIES": 3}, "not properties by device"),
        ({"DEVICE_PROPERTIES": "{"}, "not properties by device"),
        ({"DEVICE_PROPERTIES": {"CPU": 3}}, "not properties by device"),
        ({"DEVICE_PROPERTIES": {"CPU": {"FOO": 3}}}, "'FOO' is not a property of the CPU"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(given)


def test_the_plugin_takes_what_it_does_not_list(needle_int8_dir: Path) -> None:
    name = "CPU_RUNTIME_CACHE_CAPACITY"
    assert name not in core().get_property("CPU", "SUPPORTED_PROPERTIES")
    engine_of(needle_int8_dir, properties={name: "50"})
    with pytest.raises(ConfigError, match=name):  # it reads it
        engine_of(needle_int8_dir, properties={name: "many"})


def test_values_of_an_engine_are_grouped_as_asked(needle_int8_dir: Path) -> None:
    whole = engine_of(needle_int8_dir).describe().kv_bytes_per_token
    grouped = engine_of(needle_int8_dir, properties={"VALUE_CACHE_GROUP_SIZE": "16"})
    # Four groups of a head's 64 elements, each with a scale and a zero point: 6 layers, 4 heads.
    assert grouped.describe().kv_bytes_per_token - whole == 3 * 8 * 4 * len(grouped.model.layers)


@pytest.mark.parametrize(
    ("size", "settings", "message"),
    [
        (7, {}, "does not divide the 64 elements of a value"),
        (16, EXACT, "has no effect on values in f32"),
    ],
)
def test_a_group_size_that_cannot_be_is_refused(
    needle_int8_dir: Path, size: int, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        engine_of(needle_int8_dir, properties={"VALUE_CACHE_GROUP_SIZE": size}, **settings)


@pytest.mark.parametrize("engine", ["paged", "genai"])
def test_every_engine_stores_the_cache_as_the_properties_say(
    needle_int8_dir: Path, engine: str
) -> None:
    pipe = LLMPipeline(
        needle_int8_dir,
        engine=engine,
        kv_cache_config=KVCacheConfig(pool_size=256),
        config={"KEY_CACHE_PRECISION": "u8", "VALUE_CACHE_PRECISION": "u4", "ENABLE_MMAP": False},
    )
    told = pipe.describe()
    assert (told.key_cache_precision, told.value_cache_precision) == ("u8", "u4")
    assert told.kv_cache_config.value_cache_precision == "u4"


@pytest.mark.parametrize("engine", ["paged", "genai"])
def test_a_wrong_value_is_a_setting_that_is_wrong(needle_int8_dir: Path, engine: str) -> None:
    with pytest.raises(ConfigError, match=r"^Wrong value for property key INFERENCE_NUM_THREADS"):
        LLMPipeline(needle_int8_dir, engine=engine, INFERENCE_NUM_THREADS="many")
