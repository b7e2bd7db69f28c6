from __future__ import annotations

import os
from pathlib import Path

import pytest

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export import ExportOptions
from ov_kvcrush.export.output_folder import check_output, keep_apart, resolve_output


def exported(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "openvino_model.xml").touch()
    return folder


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


def test_the_output_of_another_export_that_runs_is_empty(tmp_path: Path) -> None:
    (tmp_path / f".{tmp_path.name}.partial-12345").mkdir()
    check_output(tmp_path, overwrite=False)


def test_the_root_is_an_output_that_is_not_empty() -> None:
    with pytest.raises(ExportError, match=r"^/ is not empty"):
        check_output(Path("/"), overwrite=False)


def test_a_name_that_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="File name too long"):
        check_output(tmp_path / ("x" * 300), overwrite=False)


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("model")
    assert resolve_output(tmp_path / "dangling") == tmp_path.resolve() / "model"


def test_a_circle_of_links_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")

    def check() -> None:
        check_output(resolve_output(tmp_path / "circle" / "model"), overwrite=False)

    with pytest.raises(ExportError, match="circle"):  # by the first or the second of them
        check()


def test_a_current_folder_that_was_deleted_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(ExportError, match="current folder does not exist any more"):
        resolve_output(Path("model"))


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not a path in UTF-8"):
        resolve_output(tmp_path / os.fsdecode(b"\xff"))


def test_a_model_around_the_current_folder_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = exported(tmp_path / "model")
    (output / "notes").mkdir()
    monkeypatch.chdir(output / "notes")
    with pytest.raises(ExportError, match="the current folder lies in the output"):
        check_output(output, overwrite=True)
    monkeypatch.chdir(output)
    check_output(output, overwrite=True)


def test_what_the_export_reads_or_keeps_does_not_lie_in_its_output(tmp_path: Path) -> None:
    output = tmp_path / "model"

    def options(**settings: str) -> ExportOptions:
        return ExportOptions("org/name", output, **settings)  # type: ignore[arg-type]

    with pytest.raises(ExportError, match="would replace the model"):
        keep_apart(output, output / "source", options())
    with pytest.raises(ExportError, match=r"--cache-dir .* lies in the output"):
        keep_apart(output, None, options(cache_dir=str(output / "hub")))
    inside = str(output / "statistics")
    with pytest.raises(ExportError, match="--quantization-statistics-path"):
        keep_apart(output, None, options(weight_format="int4", quantization_statistics_path=inside))
    keep_apart(output / "int4", output, options(cache_dir=str(tmp_path)))
