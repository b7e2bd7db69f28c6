"""Text from data sets of the Hugging Face hub, under the names that optimum-cli has for them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ov_kvcrush.errors import ConfigError, ExportError, first_line
from ov_kvcrush.export.texts.text_file import (
    DEFAULT_SAMPLES,
    SAMPLE_CHARACTERS,
    WHAT_IT_TAKES,
)

# Arguments of datasets.load_dataset. Training splits: the others are for judging models. WikiText-2
# is 7 MB and then in the cache; C4's first file (0.3 GB) is streamed, as far as it is read.
HUB_TEXTS: dict[str, dict[str, Any]] = {
    "wikitext2": {"path": "Salesforce/wikitext", "name": "wikitext-2-raw-v1", "split": "train"},
    "c4": {
        "path": "allenai/c4",
        "data_files": {"train": "en/c4-train.00000-of-01024.json.gz"},
        "split": "train",
        "streaming": True,
    },
}

# Beside those, what Optimum reads of the hub itself.
_CALIBRATION_DATA: dict[str, dict[str, Any]] = {
    **HUB_TEXTS,
    "c4-new": HUB_TEXTS["c4"],
    "gsm8k": {"path": "openai/gsm8k", "name": "main"},
}

CHARACTERS = DEFAULT_SAMPLES * SAMPLE_CHARACTERS
"""Read of a data set at most, as of a file."""


def fetch_text(name: str) -> str:
    """The first ``CHARACTERS`` of the data set called ``name`` in ``HUB_TEXTS``.

    Raises:
        ConfigError: the package that reads data sets is missing.
        ExportError: the hub cannot be reached, or does not give it.
    """
    require_datasets(name)
    from datasets import load_dataset

    parts, size = [], 0
    try:
        for row in load_dataset(**HUB_TEXTS[name]):
            part = row["text"].strip()
            if not part:
                continue
            parts.append(part)
            size += len(part)
            if size >= CHARACTERS:
                break
    except Exception as error:  # of datasets, huggingface_hub, fsspec, httpx, pyarrow
        raise _not_fetched(name, HUB_TEXTS[name]["path"], error) from error
    return "\n\n".join(parts)[:CHARACTERS]


def require_known(dataset: str) -> None:
    """Refuse a name that is none of Optimum's data sets.

    Raises:
        ConfigError: it is not known.
    """
    if dataset.split(":")[0] not in ("auto", *_CALIBRATION_DATA):
        raise ConfigError(
            f"--dataset {dataset!r} is neither a file nor a data set known here", WHAT_IT_TAKES
        )


def require_data_set(dataset: str, whose: str = "") -> None:
    """Refuse one of Optimum's data sets that cannot be had: Optimum asks for it after the export.

    Args:
        dataset: its name, and after a colon Optimum's options for it.
        whose: is said behind the name in errors.

    Raises:
        ConfigError: the package that reads data sets is missing.
        ExportError: the hub cannot be reached, or does not give it.
    """
    require_datasets(f"{dataset}{whose}")
    from datasets import load_dataset_builder

    arguments = _CALIBRATION_DATA.get(dataset.split(":")[0])
    if arguments is None:
        return
    named = {key: arguments[key] for key in ("path", "name", "data_files") if key in arguments}
    try:
        load_dataset_builder(**named)
    except Exception as error:  # of datasets, huggingface_hub, fsspec, httpx
        raise _not_fetched(f"{dataset}{whose}", named["path"], error) from error


def _not_fetched(name: str, path: str, error: Exception) -> ExportError:
    return ExportError(
        f"the data set {name} ({path}) cannot be fetched: {_reason(error)}",
        "Check the connection, or give a text file of yours.",
    )


def require_datasets(name: str) -> None:
    """Refuse the data set ``name`` where the package that reads data sets is missing.

    Raises:
        ConfigError: it is missing.
    """
    if find_spec("datasets") is None:
        raise ConfigError(
            f"the data set {name} is read with the package datasets, which is missing",
            'Run: pip install "ov-kvcrush[export]". Or give a text file of yours.',
        )


def _reason(error: Exception) -> str:
    # The hub's client raises RuntimeError ("client has been closed") when a retry fails.
    if isinstance(error, ConnectionError | RuntimeError):
        return "the hub cannot be reached"
    return first_line(error)
