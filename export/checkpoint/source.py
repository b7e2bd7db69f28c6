"""Where a model comes from: a folder, or the Hugging Face hub and its cache on this machine."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from errno import EACCES
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.checkpoint.weight_files import (
    Checkpoint,
    listed_files,
    read_checkpoint,
    weight_files,
)
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.model_folder import GRAPH_FILE
from ov_kvcrush.progress import Progress

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILE_SUFFIXES = (".gguf", ".safetensors", ".bin", ".xml", ".json")
_SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.tiktoken"]
_HOW_TO_NAME = (
    "--model takes a folder with config.json and weights, a GGUF file, or an id such as org/name."
)


@dataclass(frozen=True)
class Source:
    """A model that was found.

    Attributes:
        folder: its configuration and tokenizer, and its weights unless they have to be downloaded.
        checkpoint: sizes of its weights.
        weights: its weight files; empty where they have to be downloaded.
        downloads: files still to be fetched, and their bytes.
    """

    folder: Path
    checkpoint: Checkpoint
    weights: tuple[Path, ...] = ()
    downloads: tuple[str, ...] = ()
    download_bytes: int = 0


def find_source(options: ExportOptions) -> Source:
    """Find ``options.model``; of a model on the hub only the small files are fetched.

    Raises:
        ExportError: there is no such model, or it is not a Hugging Face model with weights.
    """
    folder = model_folder(options)
    if folder is not None:
        return _from_folder(folder, options.variant)
    names_a_file = Path(options.model).suffix in _FILE_SUFFIXES
    if names_a_file or not _HUB_ID.fullmatch(options.model) or options.model.startswith("."):
        what = "file" if names_a_file else "folder"
        raise ExportError(f"no such {what}: {options.model}", _HOW_TO_NAME)
    return _from_hub(options)


def model_folder(options: ExportOptions) -> Path | None:
    """The folder that ``options.model`` is; None where it can only be an id of the hub.

    Raises:
        ExportError: it is a file, or a folder that cannot be read.
    """
    folder = Path(options.model)
    try:
        if folder.is_dir():
            str(folder.resolve()).encode()
            os.listdir(folder)
            return folder
        if folder.exists():
            raise ExportError(f"{options.model} is a file, not a Hugging Face model", _HOW_TO_NAME)
    except UnicodeEncodeError as error:
        raise ExportError(
            f"the model {options.model} is not a path in UTF-8, which the libraries need",
            "Rename the folder.",
        ) from error
    except OSError as error:
        hint = "See that you may read it." if error.errno == EACCES else _HOW_TO_NAME
        raise ExportError(
            f"the model {options.model} cannot be read: {error.strerror}", hint
        ) from error
    return None


def download(options: ExportOptions, source: Source, progress: Progress) -> None:
    """Fetch the weights of a model on the hub into the hub's cache.

    Raises:
        ExportError: the hub cannot be reached, or fails.
    """

    class Bar(tqdm):  # type: ignore[misc]
        def update(self, n: float | None = 1) -> Any:
            shown = super().update(n)
            if self.unit == "B":
                progress.advance(min(1.0, self.n / source.download_bytes))
            return shown

    try:
        snapshot_download(
            options.model,
            cache_dir=options.cache_dir,
            allow_patterns=list(source.downloads),
            tqdm_class=Bar,
        )
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        raise ExportError(
            f"the weights of {options.model} could not be downloaded: {error}",
            "Run the same command again: what has arrived is kept.",
        ) from error


def _from_folder(folder: Path, variant: str | None) -> Source:
    """The model in ``folder``, all of whose files are there."""
    if not (folder / "config.json").exists():
        if (folder / "adapter_config.json").exists():
            raise ExportError(
                f"{folder} holds an adapter (LoRA), not a whole model",
                "Merge it into its base model first (PEFT's merge_and_unload).",
            )
        if found := sorted(folder.glob("*.gguf")):
            raise ExportError(
                f"{folder} holds no Hugging Face model, but {_counted(len(found), 'GGUF file')}",
                f"Give {_it_or_one(len(found))} by its own name: -m {shlex.quote(str(found[0]))}",
            )
        raise ExportError(f"{folder} holds no Hugging Face model (config.json)", _HOW_TO_NAME)
    files = weight_files((path.name for path in folder.iterdir()), variant)
    if not files:
        if (folder / GRAPH_FILE).exists():
            raise ExportError(
                f"{folder} is an OpenVINO model already", "Give the model it was exported from."
            )
        if variant:
            raise ExportError(
                f"{folder} holds no weights of the variant {variant!r}",
                "Leave --variant out, or download that variant of the model.",
            )
        raise ExportError(
            f"{folder} holds no weights (model*.safetensors or pytorch_model*.bin)",
            "Download the model again, weights included.",
        )
    paths = [folder / name for name in listed_files(folder, files, variant)]
    return Source(folder, read_checkpoint(paths), weights=tuple(paths))


def _from_hub(options: ExportOptions) -> Source:
    folder = _small_files_from_hub(options)
    try:
        found = snapshot_download(options.model, cache_dir=options.cache_dir, dry_run=True)
    except (HfHubHTTPError, OSError, RuntimeError):
        return _from_folder(folder, options.variant)  # offline, so what the cache has is all
    sizes = {file.filename: file.file_size for file in found}
    files = weight_files(sizes, options.variant)
    if not files:
        if names := sorted(name for name in sizes if name.endswith(".gguf")):
            raise ExportError(
                f"{options.model} has no weights that transformers loads, but "
                f"{_counted(len(names), 'GGUF file')}",
                f"Download {_it_or_one(len(names))} and give the file: "
                f"hf download {options.model} {names[0]} --local-dir .",
            )
        raise ExportError(f"{options.model} has no weights that transformers loads", _HOW_TO_NAME)
    missing = {file.filename for file in found if file.will_download} & set(files)
    if not missing:
        return _from_folder(folder, options.variant)
    total = sum(sizes[name] for name in files)
    checkpoint = Checkpoint(total, total // 2)
    downloads = sum(sizes[name] for name in missing)
    return Source(folder, checkpoint, downloads=tuple(files), download_bytes=downloads)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}s" if number > 1 else f"a {what}"


def _it_or_one(number: int) -> str:
    return "one" if number > 1 else "it"


def _small_files_from_hub(options: ExportOptions) -> Path:
    name = options.model
    try:
        return Path(
            snapshot_download(name, cache_dir=options.cache_dir, allow_patterns=_SMALL_FILES)
        )
    except GatedRepoError as error:
        raise ExportError(
            f"{name} is gated on the hub", "Ask for access on its page, then: hf auth login"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ExportError(
            f"no such folder, and no such model on the hub: {name}",
            "Check the spelling; for a private model log in first: hf auth login",
        ) from error
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        # The hub's client raises RuntimeError ("client has been closed") when a retry fails.
        raise ExportError(
            f"no such folder, and the hub cannot be reached: {name}",
            "Check the spelling and the connection, or download the model to a folder.",
        ) from error
