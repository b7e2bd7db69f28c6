"""Where an export may be written, and whether it may: decided before the work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.export.workspace import is_workspace, nearest_folder
from ov_kvcrush.model_folder import GRAPH_FILE
from ov_kvcrush.plan import PLAN_FILE

_ANOTHER = "Choose another output folder."
_RESERVE = 64 << 20  # tokenizer, graph, configuration


def resolve_output(output: Path) -> Path:
    """``output`` as an absolute path; a link is followed, also one to a folder not yet made.

    Raises:
        ExportError: there is no such path: a circle of links, or a current folder that was deleted.
    """
    try:
        resolved = output.resolve()
        str(resolved).encode()
    except UnicodeEncodeError as error:
        raise ExportError(
            f"the output {output} is not a path in UTF-8, which OpenVINO needs", _ANOTHER
        ) from error
    except FileNotFoundError as error:
        raise ExportError(
            "the current folder does not exist any more", "Go to one that does."
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, until Python 3.12
        raise ExportError(f"the output {output} cannot be found: {error}", _ANOTHER) from error
    return resolved


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output folder (an absolute path) that cannot, or must not, be written.

    Raises:
        ExportError: it is a file, holds something, or lies where nothing can be written.
    """
    try:
        folder = nearest_folder(output)
        if not folder.is_dir():
            raise ExportError(
                f"{folder} is a file"
                + ("" if folder == output else ": no folder can be made in it"),
                "Give the name of a folder to make.",
            )
        listed = os.R_OK if folder == output else 0
        if not os.access(folder, listed | os.W_OK | os.X_OK):
            raise ExportError(f"no permission to write in {folder}", _ANOTHER)
        if folder == output and not all(map(is_workspace, output.iterdir())):
            _check_replaceable(output, overwrite)
    except OSError as error:
        raise ExportError(
            f"the output {output} cannot be used: {error.strerror}", _ANOTHER
        ) from error


def keep_apart(output: Path, model: Path | None, options: ExportOptions) -> None:
    """Refuse an output that would replace what the export reads, or what it is to keep.

    Args:
        output: an absolute path.
        model: folder of the model, if it is one.
        options: name other folders.

    Raises:
        ExportError: the model, or another folder that the options name, lies in it.
    """
    if model is not None and _holds(output, model):
        raise ExportError(f"the output {output} would replace the model it is made from", _ANOTHER)
    for flag, folder in (
        ("--cache-dir", options.cache_dir),
        ("--quantization-statistics-path", options.quantization_statistics_path),
    ):
        if folder is not None and _holds(output, Path(folder)):
            raise ExportError(
                f"{flag} {folder} lies in the output {output}, which holds the model alone",
                "Choose another folder for it.",
            )


def require_space(folder: Path, num_bytes: int, what: str) -> None:
    """Refuse to write ``num_bytes`` to ``folder`` where they do not fit; ``what`` is written there.

    Raises:
        ExportError: the disk has less room.
    """
    free = shutil.disk_usage(folder).free
    needed = num_bytes + _RESERVE
    if free < needed:
        raise ExportError(
            f"not enough disk: {what} needs about {needed / 1e6:,.0f} MB in {folder}, "
            f"{free / 1e6:,.0f} MB are free",
            "Free some space, or choose a folder on another disk.",
        )


def _holds(output: Path, folder: Path) -> bool:
    return folder.resolve().is_relative_to(output)


def _check_replaceable(output: Path, overwrite: bool) -> None:
    if not any((output / name).exists() for name in (GRAPH_FILE, PLAN_FILE)):
        raise ExportError(
            f"{output} is not empty, and holds something other than an exported model, which is "
            "not overwritten",
            _ANOTHER,
        )
    if not overwrite:
        raise ExportError(
            f"{output} exists and is not empty", "Choose another folder, or add --overwrite."
        )
    if output in Path.cwd().parents:
        raise ExportError(
            f"the current folder lies in the output {output}, and would be deleted with it",
            "Go to another folder first.",
        )
