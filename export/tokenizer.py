"""The checkpoint's tokenizer and chat template: loaded, and written as OpenVINO models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvino_tokenizers import convert_tokenizer as convert_to_openvino
from optimum.exporters.openvino.convert import export_tokenizer
from transformers import AutoTokenizer

from ov_kvcrush.errors import ExportError, first_line, last_line
from ov_kvcrush.export.options import TASK, ExportOptions
from ov_kvcrush.model_folder import TEMPLATE_FILE, TOKENIZER_FILES, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ov_kvcrush.progress import Progress

_TOKENIZER_FILES = "Copy tokenizer.json and tokenizer_config.json into the model's folder."
_NAMED = 3
_GREETING = [{"role": "user", "content": "Hello"}]
_SAMPLES = (
    "Hello, world!",
    "  Two spaces, a tab\tand two lines\n\nwith 1,234.56 € – naïve café, 日本語 и русский 🙂",
)


def load_checkpoint_tokenizer(
    options: ExportOptions, source: Path, vocab_size: int, progress: Progress
) -> PreTrainedTokenizerBase:
    """The tokenizer of the model in ``source``, with the one chat template that chats will use.

    Args:
        options: name the model, and say whether its code is trusted.
        source: folder of the Hugging Face model.
        vocab_size: tokens that the model can read; 0 where its configuration does not say.
        progress: is told what the exported model will not have.

    Raises:
        ExportError: there is no tokenizer, or it cannot be loaded or does not read a text.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=options.trust_remote_code
        )
        # transformers makes up an empty tokenizer where there is none.
        vocabularies = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
        vocabulary = tokenizer.get_vocab()
        for text in _SAMPLES:
            tokenizer(text)
    except Exception as error:
        raise ExportError(
            f"the tokenizer of {options.model} cannot be loaded: {first_line(error)}",
            _TOKENIZER_FILES,
        ) from error
    if not any((source / name).exists() for name in vocabularies):
        raise ExportError(f"{options.model} holds no tokenizer", _TOKENIZER_FILES)
    beyond = sorted(str(token) for token, id in vocabulary.items() if id >= vocab_size > 0)
    if beyond:
        more = f" and {len(beyond) - _NAMED} more" if len(beyond) > _NAMED else ""
        progress.note(
            f"the tokenizer has tokens that the model cannot read, with ids from {vocab_size:,} "
            f"on: {', '.join(beyond[:_NAMED])}{more}"
        )
    tokenizer.chat_template = _chat_template(tokenizer, source, progress)
    return tokenizer


def _chat_template(
    tokenizer: PreTrainedTokenizerBase, source: Path, progress: Progress
) -> str | None:
    """The template of chats; of several that have names the default one."""
    template: Any = tokenizer.chat_template
    if not template or (isinstance(template, dict) and "default" not in template):
        # transformers does not read these beside named ones, or for a tokenizer.
        for name in ("tokenizer_config.json", "chat_template.json"):
            stored = _read_template(source / name)
            if stored and isinstance(template, dict):
                template = {"default": stored, **template}
            template = template or stored
    names = ""
    if isinstance(template, dict):
        names = ", ".join(sorted(template.keys() - {"default"}))
        template = template.get("default")
    if not template:
        which = f"none of the model's chat templates ({names}) is the default one" if names else ""
        progress.note(f"{which or 'the model holds no chat template'}: chats with it need one")
        return None
    if names:
        progress.note(f"chats use the default chat template alone, not {names}")
    tokenizer.chat_template = template
    try:
        tokenizer.apply_chat_template(_GREETING, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # of Jinja, and of what templates raise
        progress.note(f"the chat template cannot be rendered: {last_line(error)}")
    return str(template)


def _read_template(path: Path) -> str | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stored if isinstance(stored, str) else None


def convert_tokenizer(
    options: ExportOptions, tokenizer: PreTrainedTokenizerBase, target: Path, progress: Progress
) -> None:
    """Write ``tokenizer`` and its detokenizer as OpenVINO models to ``target``.

    Raises:
        ExportError: OpenVINO Tokenizers cannot convert it.
        ModelError: openvino_genai cannot load what it was converted to.
    """
    try:
        export_tokenizer(tokenizer, target, task=TASK)
        if not _is_converted(target):
            # Optimum keeps the reason to itself.
            convert_to_openvino(tokenizer, with_detokenizer=True)
    except Exception as error:
        raise ExportError(
            f"the tokenizer of {options.model} cannot be converted: {last_line(error)}",
            "Give a model with a fast tokenizer (tokenizer.json).",
        ) from error
    if not _is_converted(target):
        raise ExportError(
            f"the tokenizer of {options.model} cannot be converted to OpenVINO",
            "Give a model with a fast tokenizer (tokenizer.json).",
        )
    if tokenizer.chat_template:
        (target / TEMPLATE_FILE).write_text(tokenizer.chat_template, encoding="utf-8")
    converted = load_tokenizer(target)
    for text in (*_SAMPLES, " ".join(["a", *tokenizer.all_special_tokens, "b"])):
        expected = tokenizer(text).input_ids
        if converted.encode(text).input_ids.data[0].tolist() != expected:
            progress.note(f"OpenVINO's tokenizer reads {text!r} otherwise than the checkpoint's")
            break


def _is_converted(folder: Path) -> bool:
    return all((folder / name).exists() for name in TOKENIZER_FILES)
