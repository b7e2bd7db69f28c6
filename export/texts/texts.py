"""The texts models are measured on: the package's own, a file, or a data set of the hub."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export.texts.hub_text import HUB_TEXTS, fetch_text
from ov_kvcrush.export.texts.text_file import is_file_name, read_samples

OWN_PROSE = Path(__file__).parent / "calibration.txt"
"""The package's own prose, from novels."""

_WHAT_IT_TAKES = f"--kv-dataset takes a text file, a .jsonl file, or {', '.join(HUB_TEXTS)}."


@dataclass(frozen=True)
class Text:
    """A text, and where it comes from: JSON values by which it can be had again."""

    content: str
    origin: dict[str, Any]


def find_text(dataset: str | None = None) -> Text:
    """The text that ``--kv-dataset`` names; None is the package's own prose.

    Raises:
        ConfigError: it is neither a file nor a data set known here, or the file has no text in it.
        ExportError: the data set cannot be fetched.
    """
    if dataset is None:
        return Text(OWN_PROSE.read_text(encoding="utf-8"), {"source": "ov-kvcrush"})
    if dataset in HUB_TEXTS:
        content = fetch_text(dataset)
        origin = {
            "source": dataset,
            "load_dataset": HUB_TEXTS[dataset],
            "characters": len(content),
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
        }
        return Text(content, origin)
    if not is_file_name(dataset):
        raise ConfigError(
            f"--kv-dataset {dataset!r} is neither a file nor a data set known here", _WHAT_IT_TAKES
        )
    content = "\n\n".join(read_samples(dataset, takes=_WHAT_IT_TAKES))
    digest = hashlib.sha256(Path(dataset).read_bytes()).hexdigest()
    return Text(content, {"source": dataset, "sha256": digest})
