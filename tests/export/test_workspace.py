from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.workspace import check_output, open_workspace, reclaim, remove_workspace


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


def test_a_process_that_died_while_it_published_loses_no_model(tmp_path: Path) -> None:
    output = exported(tmp_path / "model")
    root = tmp_path / ".model.partial-12345"
    (root / "model").mkdir(parents=True)
    output.rename(root / "replaced")
    remove_workspace(output, 12345)
    assert os.listdir(tmp_path) == ["model"]
    assert (output / "openvino_model.xml").read_text() == "old"


def test_the_next_export_clears_up_after_one_whose_process_died(tmp_path: Path) -> None:
    (tmp_path / ".model.partial-12345" / "model").mkdir(parents=True)
    (tmp_path / ".model.partial-12345.partial-9").mkdir()  # of another output
    reclaim(tmp_path / "model")
    assert os.listdir(tmp_path) == [".model.partial-12345.partial-9"]


def test_the_next_export_gives_back_the_model_that_was_moved_aside(tmp_path: Path) -> None:
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


def test_an_empty_or_missing_output_can_be_written(tmp_path: Path) -> None:
    check_output(tmp_path, overwrite=False)
    check_output(tmp_path / "new" / "model", overwrite=False)


def test_an_exported_model_is_replaced_only_on_demand(tmp_path: Path) -> None:
    output = exported(tmp_path / "model")
    with pytest.raises(ExportError, match="exists and is not empty") as caught:
        check_output(output, overwrite=False)
    assert "--overwrite" in caught.value.hint
    check_output(output, overwrite=True)


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(ExportError, match="something other than an exported model"):
        check_output(tmp_path, overwrite=True)


def test_a_file_is_no_output_and_no_parent_of_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="is a file"):
        check_output(tmp_path / "file", overwrite=True)
    with pytest.raises(ExportError, match="no folder can be made in it"):
        check_output(tmp_path / "file" / "model", overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ExportError, match="no permission"):
            check_output(tmp_path / "model", overwrite=False)
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_written_after_all_is_reported() -> None:
    with (
        pytest.raises(ExportError, match="cannot write in /proc"),
        open_workspace(Path("/proc/model")),
    ):
        pass
