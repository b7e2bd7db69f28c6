"""A model's own settings, in ``generation_config.json``: what is served counts, the rest is noted.

The file is written for other programs too. What the caller gives is refused where it cannot be
served; what only the file says must not keep anyone from using the model.
"""

from __future__ import annotations

import json
import reprlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvino_genai import GenerationConfig

from ov_kvcrush.errors import ConfigError, ModelError, OVKVCrushError, OVKVCrushWarning
from ov_kvcrush.model_folder import GENERATION_FILE
from ov_kvcrush.runtime.generation.settings import REFUSED, SERVED, change, copy_of, validate

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

# Fields of Transformers that change no token of an answer: what ids are called, what is returned
# beside the text, how it is computed, and what counts only beside beam search or an assistant.
_WITHOUT_EFFECT = frozenset(
    {
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_lookbehind",
        "bos_token_id",
        "cache_config",
        "cache_implementation",
        "compile_config",
        "decoder_start_token_id",
        "disable_compile",
        "diversity_penalty",
        "early_stopping",
        "is_assistant",
        "length_penalty",
        "low_memory",
        "max_matching_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "pad_token_id",
        "prefill_chunk_size",
        "remove_invalid_values",
        "return_dict_in_generate",
        "target_lookbehind",
        "transformers_version",
        "use_cache",
    }
)
# What Transformers writes for "off", beside null, false, 0 and nothing.
_OFF: dict[str, Any] = {
    "encoder_repetition_penalty": 1.0,
    "eos_token_id": -1,
    "guidance_scale": 1.0,
    "num_return_sequences": 1,
    "top_h": 1.0,
    "top_k": -1,
    "typical_p": 1.0,
}
_ZERO_COUNTS = frozenset({"apply_chat_template", "eos_token_id", "repetition_penalty", "top_p"})
_LONG = 2**31


def load_model_settings(folder: Path, tokenizer: Tokenizer) -> GenerationConfig:
    """What ``generation_config.json`` in ``folder`` says, as far as it is served and valid.

    Everything else in it that would change an answer is left out with one ``OVKVCrushWarning``. An
    end-of-sequence token that the file does not name is the tokenizer's.

    Raises:
        ModelError: there is such a file, and it does not hold a JSON object.
    """
    path = folder / GENERATION_FILE
    fields, config, left_out = _read(path), GenerationConfig(), list[str]()
    if fields.get("temperature") == 0 and fields.pop("do_sample", False):
        left_out.append("do_sample is True beside temperature 0, which takes the likeliest token")
    for name, value in _settings(fields):
        try:
            config = _with(config, name, value)
        except OVKVCrushError as error:
            left_out.append(error.message)
    if left_out:
        warnings.warn(f"{path}: left out: {' · '.join(left_out)}", OVKVCrushWarning, stacklevel=2)
    if config.eos_token_id == -1 and tokenizer.get_eos_token_id() != -1:
        config.set_eos_token_id(tokenizer.get_eos_token_id())
    return config


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty where there is no such file."""
    hint = "Mend the file, or remove it: the usual settings count without it."
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", hint) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}", hint) from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path} holds a {type(settings).__name__}, not a JSON object", hint)
    return settings


def _settings(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields that ask for something."""
    for name, value in fields.items():
        is_off = value in (None, "", [], {}, _OFF.get(name)) or not (value or name in _ZERO_COUNTS)
        if not is_off and name not in _WITHOUT_EFFECT and not name.startswith("_"):
            yield name, value


def _with(config: GenerationConfig, name: str, value: Any) -> GenerationConfig:
    """A copy of ``config`` with one more setting of the file.

    Raises:
        ConfigError, UnsupportedError: it cannot have it.
    """
    shown = reprlib.repr(value)
    if name == "num_return_sequences":
        raise ConfigError(f"{name} is {shown}: how many answers are made is the caller's choice")
    if name not in SERVED | REFUSED.keys():
        raise ConfigError(f"{name} is {shown}, which is not known here")
    changed = copy_of(config)
    if name == "eos_token_id":
        ends = value if isinstance(value, list) else [value]
        change(changed, name, ends[0])
        change(changed, "stop_token_ids", [*changed.stop_token_ids, *ends])
    else:
        change(changed, name, value)
    # As whoever asks for sampling, of a model that says nowhere where to end, would use it.
    used = copy_of(changed)
    used.do_sample = True
    used.max_new_tokens = min(used.max_new_tokens, _LONG)
    validate(used)
    return changed
