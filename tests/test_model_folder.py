"""What is not an exported model's folder, or no whole one, is told in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.errors import ModelError
from ov_kvcrush.model_folder import (
    GRAPH_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    load_tokenizer,
    require_graph,
)
from ov_kvcrush.plan import PLAN_FILE
from tests.support.folders import linked

EXPORT = "ov-kvcrush export -m MODEL OUTPUT"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("model.gguf", "Make one with: ov-kvcrush export -m /"),
        ("model.safetensors", "Make one with: ov-kvcrush export"),
        (GRAPH_FILE, "Give its folder: "),
        (WEIGHTS_FILE, "Give its folder: "),
    ],
)
def test_a_file_in_place_of_a_folder_is_called_one(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / name).write_text("weights, say")
    with pytest.raises(ModelError, match="is a file, not a folder") as caught:
        require_graph(tmp_path / name)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "no such model folder"),
        ("x" * 300, "File name too long"),
        ("a\0b", "cannot be read: embedded null"),
        ("loop", "Too many levels of symbolic links"),
        ("file/below", "Not a directory"),
    ],
)
def test_a_folder_that_cannot_be_looked_into(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=reason):
        require_graph(tmp_path / name)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def garbled(path: Path) -> None:
    path.write_bytes(b"\x00\xff" * 500)


@pytest.mark.parametrize("damage", [Path.unlink, emptied, shortened, garbled])
@pytest.mark.parametrize("name", [GRAPH_FILE, WEIGHTS_FILE, *TOKENIZER_FILES])
@pytest.mark.parametrize("engine", ["paged", "genai"])
def test_a_damaged_model_is_refused_in_one_line(
    needle_int8_dir: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    engine: str,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    folder = linked(needle_int8_dir, tmp_path, without=name)
    (folder / PLAN_FILE).unlink()  # that knows its model by a fingerprint
    (folder / name).write_bytes((needle_int8_dir / name).read_bytes())
    damage(folder / name)
    with pytest.raises(ModelError) as caught:
        LLMPipeline(folder, engine=engine)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_in_a_folder_whose_name_is_too_long_is_refused() -> None:
    with pytest.raises(ModelError, match="File name too long"):
        load_tokenizer(Path("x" * 300))
