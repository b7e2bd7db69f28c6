from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from ov_kvcrush.export.ir import read_weights, write_kv_precision
from ov_kvcrush.precisions import KV_PRECISION_PAIRS, LayerPrecision
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.plugin.core import core


@pytest.fixture
def ir(needle_int8_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(needle_int8_dir, folder)
    return folder


def options_in(folder: Path) -> dict[str, str]:
    model = core().read_model(folder / "openvino_model.xml")
    return {
        name: str(value.value) for name, value in model.get_rt_info()["runtime_options"].items()
    }


def test_only_the_settings_change_and_never_the_weights(ir: Path) -> None:
    before = options_in(ir)
    weights = hashlib.sha256((ir / "openvino_model.bin").read_bytes()).digest()
    operations = _operations(ir)
    write_kv_precision(ir, LayerPrecision("u8", "u4", 0, 32))
    assert options_in(ir) == {
        **before,
        "KEY_CACHE_PRECISION": "u8",
        "VALUE_CACHE_PRECISION": "u4",
        "VALUE_CACHE_GROUP_SIZE": "32",
    }
    assert hashlib.sha256((ir / "openvino_model.bin").read_bytes()).digest() == weights
    assert _operations(ir) == operations


def test_settings_of_an_earlier_export_and_of_optimum_are_replaced(ir: Path) -> None:
    write_kv_precision(ir, LayerPrecision("u4", "u4", 32, 16))
    path = ir / "openvino_model.xml"
    optimum = '<runtime_options><KV_CACHE_PRECISION value="f16"/>'
    path.write_text(path.read_text().replace("<runtime_options>", optimum))
    write_kv_precision(ir, LayerPrecision("bf16", "bf16"))
    found = {name: value for name, value in options_in(ir).items() if "CACHE" in name}
    assert found == {"KEY_CACHE_PRECISION": "bf16", "VALUE_CACHE_PRECISION": "bf16"}


@pytest.mark.parametrize(("key", "value"), [p for p in KV_PRECISION_PAIRS if p[0] in ("u8", "u4")])
def test_the_plugin_obeys_what_is_written(ir: Path, key: str, value: str) -> None:
    write_kv_precision(ir, LayerPrecision(key, value, value_group_size=32))
    compiled = PagedModel(ir).precisions[0]
    assert (compiled.key, compiled.value) == (key, value)
    assert compiled.value_group_size == 32


def test_explicit_properties_still_win(ir: Path) -> None:
    write_kv_precision(ir, LayerPrecision("u4", "u4"))
    compiled = PagedModel(ir, precisions=LayerPrecision("u8", "u8")).precisions[0]
    assert (compiled.key, compiled.value) == ("u8", "u8")


def test_a_graph_without_any_settings_gets_them(ir: Path) -> None:
    path = ir / "openvino_model.xml"
    text = path.read_text()
    begin, end = text.index("\t<rt_info>\n\t\t<info"), text.index("</net>")
    path.write_text(text[:begin] + text[end:])
    write_kv_precision(ir, LayerPrecision("u8", "u8"))
    assert options_in(ir) == {"KEY_CACHE_PRECISION": "u8", "VALUE_CACHE_PRECISION": "u8"}


def test_how_the_weights_were_made_is_read_from_the_graph(
    needle_int8_dir: Path, needle_f32_dir: Path
) -> None:
    compressed = read_weights(needle_int8_dir)
    size = (needle_int8_dir / "openvino_model.bin").stat().st_size
    assert compressed == {"format": "int8_asym", "methods": [], "size_bytes": size}
    assert read_weights(needle_f32_dir)["format"] == "fp32"


def _operations(folder: Path) -> list[tuple[str, str, str]]:
    model = core().read_model(folder / "openvino_model.xml")
    return [
        (node.get_friendly_name(), node.get_type_name(), str(node.get_attributes()))
        for node in model.get_ordered_ops()
    ]
