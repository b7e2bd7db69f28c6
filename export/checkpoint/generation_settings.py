"""generation_config.json: where the model stops and how it samples, kept as the checkpoint says it.

Optimum writes it again, and leaves it out without a word where transformers calls it inconsistent:
a temperature without ``do_sample``, for instance, which Llama 2 was published with.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import GenerationConfig

from ov_kvcrush.errors import ExportError, first_line
from ov_kvcrush.model_folder import GENERATION_FILE

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_CORRECT = "Correct it, or delete it to do without the model's own stop tokens and settings."


def check_generation_settings(folder: Path) -> None:
    """Refuse settings of the Hugging Face model in ``folder`` that cannot be read.

    transformers would do without them, and the model would not stop where it should.

    Raises:
        ExportError: the file is not a JSON object, or its values are not of the right types.
    """
    path = folder / GENERATION_FILE
    if not path.exists():
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError("it is not a JSON object")
        ends = stored.get("eos_token_id")
        for end in ends if isinstance(ends, list) else [ends]:
            if type(end) not in (int, type(None)):
                raise ValueError(f"eos_token_id is {ends!r}, not a token id or a list of them")
        GenerationConfig.from_pretrained(folder)
    except Exception as error:  # of the file system, json, transformers
        raise ExportError(f"{path} cannot be read: {first_line(error)}", _CORRECT) from error


def keep_generation_settings(source: Path, config: PretrainedConfig, target: Path) -> None:
    """Let the exported model have the settings of the checkpoint.

    Args:
        source: folder of the Hugging Face model.
        config: its configuration: config.json has the settings of models without a file for them.
        target: folder of the exported model.
    """
    if (source / GENERATION_FILE).exists():
        shutil.copyfile(source / GENERATION_FILE, target / GENERATION_FILE)
        return
    # transformers drops some of them as misplaced, others have a default by architecture.
    stored = json.loads((source / "config.json").read_text(encoding="utf-8"))
    settings = GenerationConfig.from_model_config(config).to_diff_dict()
    for name in GenerationConfig().to_dict():
        if stored.get(name) is not None:
            settings[name] = stored[name]
    (target / GENERATION_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
