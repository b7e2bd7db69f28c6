"""Where LongBench's rows come from: the package, a file, a folder of its files, or the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from ov_kvcrush.errors import ConfigError, OVKVCrushError, first_line
from ov_kvcrush.evaluation.suites.longbench.tasks import METRIC_BY_TASK
from ov_kvcrush.files import parse_json, read_text

SHIPPED_ROWS = Path(__file__).with_name("rows.jsonl")
"""55 rows of 14 English tasks, which come with the package."""

HUB = "THUDM/LongBench"
"""The data set on the hub; given as data, it is fetched."""

# All its files in one, each as data/TASK.jsonl.
_HUB_FILE = "data.zip"


@dataclass(frozen=True)
class Row:
    """A line of LongBench's files.

    Attributes:
        place: where it stands, for errors.
        fields: its own.
    """

    place: str
    fields: dict[str, Any]


def read_rows(data: Path | None = None, tasks: Sequence[str] = ()) -> Iterator[Row]:
    """The rows in ``data``, file by file.

    Args:
        data: a file of JSON lines; a folder of LongBench's own files, each ``TASK.jsonl`` or, where
            there is only that, ``TASK_e.jsonl``; ``HUB``; None is the package's own.
        tasks: English ones, which are read of a folder or the hub; all there are where there are
            none. A file is read whole.

    Raises:
        OVKVCrushError: ``data`` cannot be read or fetched, a task is missing in it, or a line is
            not a JSON object; names the line.
        ConfigError: the package that fetches from the hub is missing.
    """
    for name, text in _read_texts(data or SHIPPED_ROWS, tasks):
        # Not splitlines, which also splits at characters that JSON allows in a text.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                place = f"{name}, line {number}"
                yield Row(place, _parse(line, place))


def _read_texts(data: Path, tasks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The files' names, for errors, and what they hold."""
    if data.is_dir():
        for name in _choose({path.name for path in data.iterdir()}, tasks, str(data)):
            yield str(data / name), read_text(data / name)
    elif str(data) == HUB and not data.exists():
        yield from _read_hub(tasks)
    else:
        yield str(data), read_text(data)


def _read_hub(tasks: Sequence[str]) -> Iterator[tuple[str, str]]:
    if find_spec("huggingface_hub") is None:
        raise ConfigError(
            f"{HUB} is fetched with the package huggingface_hub, which is missing",
            "Run: pip install huggingface_hub. Or give a folder of LongBench's own files.",
        )
    from huggingface_hub import hf_hub_download

    try:
        archive = ZipFile(hf_hub_download(HUB, _HUB_FILE, repo_type="dataset"))
    # The hub's client raises RuntimeError ("client has been closed") when a retry fails.
    except (OSError, RuntimeError, ValueError, BadZipFile) as error:
        raise OVKVCrushError(
            f"the data set {HUB} cannot be fetched: {first_line(error)}",
            "Check the connection, or give a folder of LongBench's own files.",
        ) from error
    with archive:
        paths = {Path(path).name: path for path in archive.namelist()}
        for name in _choose(set(paths), tasks, HUB):
            yield f"{HUB}, {name}", archive.read(paths[name]).decode()


def _choose(names: set[str], tasks: Sequence[str], place: str) -> list[str]:
    """Those of ``names`` that hold ``tasks``, all where there are none, in LongBench's order."""
    chosen = []
    for task in METRIC_BY_TASK:
        found = [name for name in (f"{task}.jsonl", f"{task}_e.jsonl") if name in names]
        if task in tasks and not found:
            raise OVKVCrushError(f"{place} holds no {task}.jsonl", "Leave the task out.")
        if not tasks or task in tasks:
            chosen += found[:1]
    if not chosen:
        raise OVKVCrushError(
            f"{place} holds none of LongBench's English files",
            f"They are called {next(iter(METRIC_BY_TASK))}.jsonl and so on, one a task.",
        )
    return chosen


def _parse(line: str, place: str) -> dict[str, Any]:
    hint = "A line is a row of LongBench with its own fields."
    try:
        row = parse_json(line)
    except ValueError as error:
        raise OVKVCrushError(f"{place}: not valid JSON ({error})", hint) from error
    if not isinstance(row, dict):
        raise OVKVCrushError(f"{place}: a {type(row).__name__}, not a JSON object", hint)
    return row
