"""Which settings of ``GenerationConfig`` the engine serves, and what one call's add up to."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from openvino_genai import GenerationConfig, StructuredOutputConfig

from ov_kvcrush.errors import ConfigError, PromptError, UnsupportedError, did_you_mean, last_line
from ov_kvcrush.runtime.grammar.grammar import Grammar

SERVED = frozenset(
    {
        "apply_chat_template",
        "do_sample",
        "eos_token_id",
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "logprobs",
        "max_ngram_size",
        "max_length",
        "max_new_tokens",
        "min_new_tokens",
        "min_p",
        "num_assistant_tokens",
        "num_return_sequences",
        "presence_penalty",
        "repetition_penalty",
        "rng_seed",
        "stop_strings",
        "stop_token_ids",
        "structured_output_config",
        "temperature",
        "top_k",
        "top_p",
    }
)

# What each refused setting belongs to, as the error names it.
REFUSED = {
    "adapters": "LoRA adapters",
    "assistant_confidence_threshold": "assisted generation",
    "branching_factor": "tree search",
    "diversity_penalty": "beam search",
    "echo": "echoing the prompt",
    "length_penalty": "beam search",
    "no_repeat_ngram_size": "beam search",
    "num_beam_groups": "beam search",
    "num_beams": "beam search",
    "parsers": "output parsers",
    "pruning_ratio": "pruning of visual tokens",
    "relevance_weight": "pruning of visual tokens",
    "return_omni_outputs": "speech output",
    "stop_criteria": "beam search",
    "tree_depth": "tree search",
}

LONGEST_ANSWER = 32768
"""Tokens of an answer that neither settings nor a context limit."""

# Numbers from here on say that nothing was set.
_UNLIMITED = 2**62
MOST_LOGPROBS = 20
"""The likeliest tokens in place of each that ``logprobs`` may ask for."""

_DEFAULTS = GenerationConfig()
_NUMBERS = sorted(name for name in SERVED if isinstance(getattr(_DEFAULTS, name), float))
# Those whose default is None.
_OPTIONAL = {"num_assistant_tokens": int, "structured_output_config": StructuredOutputConfig}
_TAKES: dict[type, str] = {
    bool: "True or False",
    float: "a number",
    int: "a whole number, 0 or more",
    set: "a set of strings, or of token ids",
    StructuredOutputConfig: "a StructuredOutputConfig or a Grammar",
}


def resolve_generation_config(
    default: GenerationConfig,
    config: GenerationConfig | Mapping[str, object] | None,
    kwargs: Mapping[str, object],
) -> GenerationConfig:
    """The settings of one call: ``config`` in place of ``default``, then ``kwargs`` over both.

    As in openvino_genai, a ``GenerationConfig`` replaces the whole default and takes from it only
    the end-of-sequence and stop tokens it does not name; a mapping changes what it names, as
    ``kwargs`` do. The result is a new object; no argument is changed. Where a set is wanted, any
    collection will do, and one string for ``stop_strings``.

    Raises:
        ConfigError: an unknown name (with the closest known one), or a value that is of the wrong
            type, out of range, or contradicts another.
        UnsupportedError: a setting this engine does not serve.
    """
    replaces = isinstance(config, GenerationConfig)
    if not replaces and not isinstance(config, Mapping | None):
        raise ConfigError(
            f"a generation config is a GenerationConfig or a mapping, not a {type(config).__name__}"
        )
    base = config if replaces else default
    changes = {**({} if replaces or config is None else config), **kwargs}

    refuse_unsupported(base)
    resolved = copy_of(base)
    for name, value in changes.items():
        change(resolved, name, value)
    if not replaces:
        _let_the_caller_win(resolved, changes)
    _complete_stop_tokens(resolved, default)
    validate(resolved)
    return resolved


def copy_of(config: GenerationConfig) -> GenerationConfig:
    """Another config with the served settings of ``config``."""
    copy = GenerationConfig()
    for name in SERVED:
        setattr(copy, name, getattr(config, name))
    return copy


def refuse_unsupported(config: GenerationConfig) -> None:
    """Refuse a config that asks for what this engine does not do.

    Raises:
        UnsupportedError: a refused setting differs from its default; names setting and value.
    """
    for name in REFUSED:
        _refuse(name, getattr(config, name))


def max_new_tokens(config: GenerationConfig, prompt_length: int) -> int:
    """Tokens that may be generated after a prompt of ``prompt_length`` tokens.

    ``max_new_tokens`` where it is set, else what ``max_length`` leaves. A config that sets neither
    gives a number no cache reaches.

    Raises:
        PromptError: ``max_length`` counts and the prompt alone is as long.
    """
    if config.max_new_tokens != _DEFAULTS.max_new_tokens:
        return int(config.max_new_tokens)
    if config.max_length <= prompt_length:
        raise PromptError(
            f"the prompt has {prompt_length} tokens and max_length {config.max_length} "
            "leaves none to generate",
            "Raise max_length, which counts the prompt, or set max_new_tokens, which does not.",
        )
    return int(config.max_length) - prompt_length


def bounded(config: GenerationConfig, prompt_length: int, context_length: int) -> GenerationConfig:
    """``config`` with an answer that ends with the model's context; a new object where it changes.

    Args:
        config: resolved settings.
        prompt_length: tokens of the prompt.
        context_length: tokens of prompt and answer; 0 where they are not bounded. Then an answer
            that nothing else limits ends after ``LONGEST_ANSWER`` tokens: what is evicted as it
            grows never fills the cache, and a model that repeats itself would go on for ever.

    Raises:
        PromptError: as :func:`max_new_tokens`.
    """
    wanted = max_new_tokens(config, prompt_length)
    if context_length:
        most = context_length - prompt_length
    else:
        most = wanted if wanted < _UNLIMITED else LONGEST_ANSWER
    if wanted <= most:
        return config
    copy = copy_of(config)
    copy.max_new_tokens = most
    copy.min_new_tokens = min(copy.min_new_tokens, most)
    return copy


def _refuse(name: str, value: Any) -> None:
    default = getattr(_DEFAULTS, name)
    # None, 0, an empty list and an adapter config without adapters all ask for nothing.
    if value == default or (not value and not default):
        return
    raise UnsupportedError(
        f"{name} is {reprlib.repr(value)}: this engine does not serve {REFUSED[name]}",
        f"Leave {name} at its default, {default!r}, or use openvino_genai's own pipelines.",
    )


def change(config: GenerationConfig, name: str, value: Any) -> None:
    """Give ``config`` one setting, whatever the others are.

    Raises:
        ConfigError: the name is unknown, or the value of another type.
        UnsupportedError: this engine does not serve it.
    """
    if name in REFUSED:
        return _refuse(name, value)
    if name not in SERVED:
        raise ConfigError(
            f"unknown generation setting {name!r}", did_you_mean(name, SERVED, REFUSED)
        )
    kind, given = _kind_of(name), reprlib.repr(value)
    try:
        if kind is set:
            value = {value} if isinstance(value, str) else set(value)
        if isinstance(value, Grammar):
            value = value.to_config()
        _require_no_bools(kind, value)
        setattr(config, name, value)
    except TypeError:
        raise ConfigError(f"{name} is {given}; it takes {_TAKES[kind]}") from None


def _kind_of(name: str) -> type:
    return _OPTIONAL.get(name) or type(getattr(_DEFAULTS, name))


def _require_no_bools(kind: type, value: Any) -> None:
    # To pybind11 a bool is a number, and None is False.
    is_bool = isinstance(value, bool) or (kind is set and any(type(one) is bool for one in value))
    if (is_bool and kind is not bool) or (value is None and kind is bool):
        raise TypeError


def _let_the_caller_win(config: GenerationConfig, changes: Mapping[str, object]) -> None:
    """Where a length that is the default's contradicts the caller's, it gives way."""
    if config.min_new_tokens <= config.max_new_tokens:
        return
    if "min_new_tokens" not in changes:
        config.min_new_tokens = config.max_new_tokens
    elif "max_new_tokens" not in changes:
        config.max_new_tokens = config.min_new_tokens


def _complete_stop_tokens(config: GenerationConfig, default: GenerationConfig) -> None:
    """Fill in what ``config`` leaves open of eos and stop tokens; -1 is openvino_genai's no eos."""
    if config.eos_token_id != -1:
        config.stop_token_ids = config.stop_token_ids | {config.eos_token_id}
    if not config.stop_token_ids:
        config.stop_token_ids = default.stop_token_ids
    if config.eos_token_id == -1 and default.eos_token_id != -1:
        config.eos_token_id = default.eos_token_id
        config.stop_token_ids = config.stop_token_ids | {default.eos_token_id}


def validate(config: GenerationConfig) -> None:
    """Refuse values that are out of range, or contradict one another.

    Raises:
        ConfigError: says which.
    """
    try:
        config.validate()
    except RuntimeError as error:
        # A failed C++ check: the condition and a build path, and the sentence that helps last.
        raise ConfigError(last_line(error)) from None
    if "" in config.stop_strings:
        raise ConfigError("stop_strings holds an empty string, which every text contains")
    if config.logprobs > MOST_LOGPROBS:
        raise ConfigError(
            f"logprobs is {config.logprobs}; at most {MOST_LOGPROBS} tokens are told of each place",
            f"Give a number from 0 to {MOST_LOGPROBS}.",
        )
    if config.structured_output_config is not None:
        _require_free_end(config)
    if config.max_length == 0:
        raise ConfigError("max_length is 0, which leaves nothing to generate")
    for name in _NUMBERS:
        value = getattr(config, name)
        if not math.isfinite(value):
            raise ConfigError(
                f"{name} is {value}, which is not a finite number",
                f"It does nothing at its default, {getattr(_DEFAULTS, name)}.",
            )


def _require_free_end(config: GenerationConfig) -> None:
    """An answer of a given structure ends where it is whole, and nothing can come behind it."""
    for name in ("ignore_eos", "min_new_tokens"):
        value = getattr(config, name)
        if value:
            raise ConfigError(
                f"{name} is {value}, and an answer of a given structure ends where it is whole",
                f"Leave {name} out, or the structure.",
            )
