"""A graph read ahead of time is the one that is there when it is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ov_kvcrush.errors import ModelError
from ov_kvcrush.runtime.plugin import ir_file
from ov_kvcrush.runtime.plugin.ir_file import begin_reading, read_ir


def copy_of(folder: Path, into: Path) -> Path:
    into.mkdir()
    for name in ("openvino_model.xml", "openvino_model.bin"):
        shutil.copy(folder / name, into / name)
    return into


def num_ahead() -> int:
    return len(ir_file._ahead)


def test_what_was_read_ahead_is_given_once(needle_int8_dir: Path) -> None:
    begin_reading(needle_int8_dir)
    begin_reading(needle_int8_dir)
    assert num_ahead() == 1
    first = read_ir(needle_int8_dir)
    assert num_ahead() == 0
    # A graph is changed by whoever has it: the next one gets another.
    second = read_ir(needle_int8_dir)
    assert first is not second
    assert len(first.get_ops()) == len(second.get_ops())


def test_another_model_in_its_place_is_read_anew(needle_int8_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(needle_int8_dir, tmp_path / "model")
    begin_reading(folder)
    text = (folder / "openvino_model.xml").read_text()
    (folder / "openvino_model.xml").write_text(text.replace('"input_ids', '"ids,input_ids'))
    assert "ids" in read_ir(folder).input("input_ids").get_names()


def test_weights_in_memory_are_not_those_mapped_ahead(needle_int8_dir: Path) -> None:
    begin_reading(needle_int8_dir)
    read_ir(needle_int8_dir, memory_mapped=False)
    assert num_ahead() == 1
    read_ir(needle_int8_dir)
    assert num_ahead() == 0


def test_what_is_wrong_is_said_when_it_is_asked_for(needle_int8_dir: Path, tmp_path: Path) -> None:
    begin_reading(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no such model folder"):
        read_ir(tmp_path / "nowhere")
    folder = copy_of(needle_int8_dir, tmp_path / "model")
    text = (folder / "openvino_model.xml").read_bytes()
    (folder / "openvino_model.xml").write_bytes(text[: len(text) // 2])
    begin_reading(folder)
    with pytest.raises(ModelError, match="cannot be read"):
        read_ir(folder)
