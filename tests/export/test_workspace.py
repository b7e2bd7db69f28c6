from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.workspace import open_workspace, reclaim, remove_workspace


def exported(folder: Path, content: str = "old") -> Path:
    folder.mkdir(parents=True)
    (folder / "openvino_model.xml").write_text(content)
    return folder


def test_the_output_appears_only_when_it_is_published(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "down" / "model"
    with open_workspace(output) as workspace:
        (workspace.model / "openvino_model.xml").write_text("new")
        assert not output.parent.exists()
        workspace.publish()
        assert (output / "openvino_model.xml").read_text() == "new"
    assert os.listdir(tmp_path) == ["deep"]
    assert os.listdir(output.parent) == ["model"]


def test_a_failure_leaves_nothing_and_the_old_model_untouched(tmp_path: Path) -> None:
    output = exported(tmp_path / "model")
    with contextlib.suppress(KeyboardInterrupt), open_workspace(output) as workspace:
        (workspace.model / "openvino_model.xml").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["model"]
    assert (output / "openvino_model.xml").read_text() == "old"


def test_publishing_replaces_the_old_model(tmp_path: Path) -> None:
    output = exported(tmp_path / "model")
    (output / "stale.txt").write_text("gone")
    with open_workspace(output) as workspace:
        (workspace.model / "openvino_model.xml").write_text("new")
        workspace.publish()
    assert os.listdir(output) == ["openvino_model.xml"]
    assert os.listdir(tmp_path) == ["model"]


def test_the_folder_that_was_there_stays_the_one_it_is(tmp_path: Path) -> None:
    """A mount point, or somebody's current folder, cannot be renamed."""
    output = exported(tmp_path / "model")
    same = output.stat().st_ino
    with open_workspace(output) as workspace:
        (workspace.model / "openvino_model.xml").write_text("new")
        workspace.publish()
    assert output.stat().st_ino == same


def died_while_it_published(output: Path, until: str) -> Path:
    """The workspace of a process that was killed when ``until`` was there; its two files differ."""
    exported(output)
    (output / "old.txt").touch()
    root = output / ".model.partial-12345"
    (root / "model").mkdir(parents=True)
    (root / "model" / "openvino_model.xml").write_text("new")
    (root / "model" / "new.txt").touch()
    (root / until).mkdir()
    (output / "openvino_model.xml").rename(root / until / "openvino_model.xml")
    if until == "discarded":
        (output / "old.txt").rename(root / until / "old.txt")
        (root / "model" / "new.txt").rename(output / "new.txt")
    return output


def test_a_process_that_died_before_the_old_model_was_away_is_undone(tmp_path: Path) -> None:
    output = died_while_it_published(tmp_path / "model", until="replaced")
    remove_workspace(output, 12345)
    assert sorted(os.listdir(output)) == ["old.txt", "openvino_model.xml"]
    assert (output / "openvino_model.xml").read_text() == "old"


def test_a_process_that_died_after_the_old_model_was_away_is_finished(tmp_path: Path) -> None:
    output = died_while_it_published(tmp_path / "model", until="discarded")
    reclaim(output)
    assert sorted(os.listdir(output)) == ["new.txt", "openvino_model.xml"]
    assert (output / "openvino_model.xml").read_text() == "new"


def test_a_model_that_cannot_be_moved_in_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = exported(tmp_path / "model")
    (output / "stale.txt").touch()
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if Path(source) == output / "stale.txt":
            raise PermissionError(source)
        rename(source, target)

    with open_workspace(output) as workspace:
        (workspace.model / "openvino_model.xml").write_text("new")
        monkeypatch.setattr("os.rename", refuse)
        with pytest.raises(PermissionError):
            workspace.publish()
    assert sorted(os.listdir(output)) == ["openvino_model.xml", "stale.txt"]
    assert (output / "openvino_model.xml").read_text() == "old"


def test_the_next_export_clears_up_after_one_whose_process_died(tmp_path: Path) -> None:
    (tmp_path / ".model.partial-12345" / "model").mkdir(parents=True)
    (tmp_path / ".model.partial-12345.partial-9").mkdir()  # of another output
    reclaim(tmp_path / "model")
    assert os.listdir(tmp_path) == [".model.partial-12345.partial-9"]


def test_the_next_export_gives_back_the_model_that_an_older_release_moved_aside(
    tmp_path: Path,
) -> None:
    output = exported(tmp_path / "model")
    root = tmp_path / ".model.partial-12345"
    (root / "model").mkdir(parents=True)
    output.rename(root / "replaced")
    reclaim(output)
    assert os.listdir(tmp_path) == ["model"]
    assert (output / "openvino_model.xml").read_text() == "old"


def test_an_export_that_still_runs_is_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "model"
    with open_workspace(output) as workspace:
        reclaim(output)
        (workspace.model / "openvino_model.xml").write_text("new")
        workspace.publish()
    assert os.listdir(tmp_path) == ["model"]


def test_temporary_files_lie_beside_the_output_meanwhile(tmp_path: Path) -> None:
    former = tempfile.gettempdir()
    with open_workspace(tmp_path / "model") as workspace, tempfile.TemporaryDirectory() as folder:
        assert Path(folder).parent == workspace.scratch
    assert tempfile.gettempdir() == former


def test_a_folder_that_cannot_be_written_after_all_is_reported() -> None:
    with (
        pytest.raises(ExportError, match="cannot write in /proc"),
        open_workspace(Path("/proc/model")),
    ):
        pass
