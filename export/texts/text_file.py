"""Calibration text of the user's own, for the data-aware compression methods.

Optimum knows a few data sets of the hub by name. Here ``--dataset`` may also be a file: plain text,
or ``.jsonl`` whose lines are strings, or objects with ``text`` (or ``prompt``).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ov_kvcrush.errors import ConfigError

DEFAULT_SAMPLES = 128
"""Samples NNCF takes when no number is given."""

SAMPLE_CHARACTERS = 2000
"""Longest sample: some 500 tokens. The methods keep activations of all samples in memory."""

WHAT_IT_TAKES = "--dataset takes a text file, a .jsonl file, or auto, wikitext2, c4, c4-new, gsm8k."
"""A sentence for hints."""

_WHAT_A_LINE_IS = 'Each line is a string or an object such as {"text": "..."}.'


def is_file_name(dataset: str) -> bool:
    """Whether ``--dataset`` means a file and not a name that Optimum knows."""
    path = Path(dataset)
    return path.exists() or os.sep in dataset or path.suffix in (".txt", ".jsonl", ".json", ".md")


def read_samples(
    path: str | Path, num_samples: int | None = None, takes: str = WHAT_IT_TAKES
) -> list[str]:
    """Samples from the file, evenly spread over it: at most ``num_samples`` (default 128).

    ``takes`` tells, in errors, what may be given to the option that named the file.

    Raises:
        ConfigError: the file does not exist, is not text, is malformed JSON, or has no text in it.
    """
    pieces = [part for text in read_documents(path, takes) for part in _pieces(path, text)]
    samples = [sample[:SAMPLE_CHARACTERS] for sample in pieces if sample.strip()]
    wanted = num_samples or DEFAULT_SAMPLES
    if len(samples) <= wanted:
        return samples
    return [samples[index * len(samples) // wanted] for index in range(wanted)]


def read_documents(path: str | Path, takes: str) -> list[str]:
    """The texts in the file, whole: one for each line of a ``.jsonl`` file, else one.

    ``takes`` as for :func:`read_samples`, and errors.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(
                f"the calibration file {path} is not UTF-8 text: {error}", takes
            ) from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read the calibration file {path}: {reason}", takes) from error
    documents = _json_lines(path, text) if path.suffix == ".jsonl" else [text]
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise ConfigError(f"the calibration file {path} holds no text", takes)
    return documents


def _pieces(path: str | Path, text: str) -> list[str]:
    """Cut at white space into pieces of at most ``SAMPLE_CHARACTERS``; a line of JSON is one."""
    if Path(path).suffix == ".jsonl":
        return [text]
    pieces, start = [], 0
    while start < len(text):
        end = start + SAMPLE_CHARACTERS
        if end < len(text):
            space = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
            end = space + 1 if space >= start else end
        pieces.append(text[start:end])
        start = end
    return pieces


def _json_lines(path: Path, text: str) -> list[str]:
    samples = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ConfigError(
                f"{path}, line {number} is not JSON: {error}", _WHAT_A_LINE_IS
            ) from error
        if isinstance(value, dict):
            value = value.get("text", value.get("prompt"))
        if not isinstance(value, str):
            raise ConfigError(f"{path}, line {number} holds no text", _WHAT_A_LINE_IS)
        samples.append(value)
    return samples
