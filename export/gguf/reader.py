"""openvino_genai's own reader of GGUF files: an IR and a tokenizer in a folder of ours."""

from __future__ import annotations

import os
from pathlib import Path

from ov_kvcrush.errors import ExportError, last_line
from ov_kvcrush.export.gguf.model_file import HUGGING_FACE_INSTEAD
from ov_kvcrush.model_folder import GRAPH_FILE, TOKENIZER_FILES, WEIGHTS_FILE


def convert(name: str, parts: tuple[Path, ...], scratch: Path, target: Path) -> None:
    """Let the reader write IR, tokenizer and detokenizer of a GGUF model to ``target``.

    It writes beside the file it reads, and so is given links to ``parts`` in ``scratch``.

    Args:
        name: of the model, in errors.
        parts: its files, that are read in this order.
        scratch: an empty folder, on the file system of ``target``.

    Raises:
        ExportError: the reader fails. It may also end the process.
    """
    from openvino_genai import LLMPipeline

    links = [scratch / _link_name(number, len(parts)) for number in range(1, len(parts) + 1)]
    for link, part in zip(links, parts, strict=True):
        link.symlink_to(part.resolve())
    try:
        LLMPipeline(str(links[0]), "CPU", enable_save_ov_model=True)
    except Exception as error:  # RuntimeError, and what C++ throws at a missing field
        raise ExportError(
            f"OpenVINO's GGUF reader fails at {name}: {last_line(error)}", HUGGING_FACE_INSTEAD
        ) from error
    for written in (GRAPH_FILE, *TOKENIZER_FILES):
        if not (scratch / written).exists():
            raise ExportError(
                f"OpenVINO's GGUF reader wrote no {written} of {name}",
                "Install the openvino-genai release that ov-kvcrush names in its dependencies.",
            )
    weights = [Path(file).with_suffix(".bin").name for file in TOKENIZER_FILES]
    for written in (GRAPH_FILE, WEIGHTS_FILE, *TOKENIZER_FILES, *weights):
        os.rename(scratch / written, target / written)


def _link_name(number: int, count: int) -> str:
    # The reader finds the further files of a split model by their names.
    return "model.gguf" if count == 1 else f"model-{number:05}-of-{count:05}.gguf"
