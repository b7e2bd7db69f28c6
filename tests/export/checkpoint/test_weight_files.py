"""Which files hold a checkpoint's weights, and files that are missing or cut off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.checkpoint.weight_files import listed_files, tensor_shapes, weight_files

INDEX = "model.safetensors.index.json"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A checkpoint in two parts, with the first of another one that was in three."""
    for number in (1, 2):
        save_file({f"w{number}": torch.ones(2, 3)}, tmp_path / part(number, 2))
    save_file({"old": torch.ones(1)}, tmp_path / part(1, 3))
    listed = {f"w{number}": part(number, 2) for number in (1, 2)}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": listed}))
    return tmp_path


def part(number: int, total: int) -> str:
    return f"model-0000{number}-of-0000{total}.safetensors"


def listed(folder: Path) -> list[str]:
    return listed_files(folder, weight_files(path.name for path in folder.iterdir()))


def test_parts_are_those_that_the_index_lists(parts: Path) -> None:
    assert listed(parts) == [part(1, 2), part(2, 2)]


def test_one_whole_file_goes_before_parts(parts: Path) -> None:
    save_file({"w": torch.ones(1)}, parts / "model.safetensors")
    assert listed(parts) == ["model.safetensors"]


def test_an_index_of_a_variant_is_found(tmp_path: Path) -> None:
    name = "model.fp16-00001-of-00001.safetensors"
    save_file({"w": torch.ones(1)}, tmp_path / name)
    (tmp_path / "model.safetensors.index.fp16.json").write_text(
        json.dumps({"weight_map": {"w": name}})
    )
    assert listed_files(tmp_path, [name], "fp16") == [name]


def test_a_part_that_is_missing_is_named(parts: Path) -> None:
    (parts / part(2, 2)).unlink()
    with pytest.raises(ExportError, match=r"lists model-00002-of-00002\.safetensors, which is not"):
        listed(parts)


def test_parts_without_an_index_are_refused(parts: Path) -> None:
    (parts / INDEX).unlink()
    with pytest.raises(ExportError, match=r"their index model\.safetensors\.index\.json cannot be"):
        listed(parts)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 7}', '{"weight_map": {}}'])
def test_an_index_that_lists_nothing_is_refused(parts: Path, content: str) -> None:
    (parts / INDEX).write_text(content)
    with pytest.raises(ExportError, match="lists no"):
        listed(parts)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_file_tells_its_shapes_unless_it_is_cut_off(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(300, 4)}, path, _use_new_zipfile_serialization=zipped)
    assert tensor_shapes([path]) == {"w": (300, 4)}
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ExportError, match="is damaged"):
        tensor_shapes([path])
