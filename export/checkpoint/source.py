"""Where a model comes from: a folder, or the Hugging Face hub and its cache on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
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
from ov_kvcrush.export.checkpoint.weight_files import Checkpoint, read_checkpoint, weight_files
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.model_folder import GRAPH_FILE
from ov_kvcrush.progress import Progress

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.tiktoken"]
_HOW_TO_NAME = "--model takes a folder with config.json and weights, or an id such as org/name."


@dataclass(frozen=True)
class Source:
    """A model that was found.

    Attributes:
        folder: its configuration and tokenizer, and its weights unless they have to be downloaded.
        checkpoint: sizes of its weights.
        downloads: files still to be fetched, and their bytes.
    """

    folder: Path
    checkpoint: Checkpoint
    downloads: tuple[str, ...] = ()
    download_bytes: int = 0


def find_source(options: ExportOptions) -> Source:
    """Find ``options.model``; of a model on the hub only the small files are fetched.

    Raises:
        ExportError: there is no such model, or it is not a Hugging Face model with weights.
    """
    folder = Path(options.model)
    if folder.is_dir():
        return _from_folder(folder, options.variant)
    if folder.exists():
        what = "a GGUF file" if folder.suffix == ".gguf" else "a file"
        raise ExportError(f"{options.model} is {what}, not a Hugging Face model", _HOW_TO_NAME)
    if not _HUB_ID.fullmatch(options.model) or options.model.startswith("."):
        raise ExportError(f"no such folder: {options.model}", _HOW_TO_NAME)
    return _from_hub(options)


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
    if not (folder / "config.json").exists():
        if (folder / "adapter_config.json").exists():
            raise ExportError(
                f"{folder} holds an adapter (LoRA), not a whole model",
                "Merge it into its base model first (PEFT's merge_and_unload).",
            )
        if any(folder.glob("*.gguf")):
            raise ExportError(f"{folder} holds GGUF files", _HOW_TO_NAME)
        raise ExportError(f"{folder} holds no Hugging Face model (config.json)", _HOW_TO_NAME)
    files = weight_files((path.name for path in folder.iterdir()), variant)
    if not files:
        if (folder / GRAPH_FILE).exists():
            raise ExportError(
                f"{folder} is an OpenVINO model already", "Give the model it was exported from."
            )
        of_variant = f" of the variant {variant!r}" if variant else ""
        raise ExportError(
            f"{folder} holds no weights{of_variant} (model*.safetensors or pytorch_model*.bin)",
            "Download the model again, weights included.",
        )
    return Source(folder, read_checkpoint(folder / name for name in files))


def _from_hub(options: ExportOptions) -> Source:
    folder = _small_files_from_hub(options)
    try:
        found = snapshot_download(options.model, cache_dir=options.cache_dir, dry_run=True)
    except (HfHubHTTPError, OSError, RuntimeError):
        return _from_folder(folder, options.variant)  # offline, so what the cache has is all
    sizes = {file.filename: file.file_size for file in found}
    files = weight_files(sizes, options.variant)
    if not files:
        raise ExportError(f"{options.model} has no weights that transformers loads", _HOW_TO_NAME)
    missing = {file.filename for file in found if file.will_download} & set(files)
    if not missing:
        return _from_folder(folder, options.variant)
    total = sum(sizes[name] for name in files)
    checkpoint = Checkpoint(total, total // 2)
    return Source(folder, checkpoint, tuple(files), sum(sizes[name] for name in missing))


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
