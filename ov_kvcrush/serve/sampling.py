"""From a request's fields to the settings of a generation."""

from __future__ import annotations

import secrets
from typing import Any

from openvino_genai import GenerationConfig

from ov_kvcrush.errors import GrammarError
from ov_kvcrush.runtime.grammar.grammar import Grammar
from ov_kvcrush.serve.errors import context_exceeded, invalid, invalid_schema
from ov_kvcrush.serve.schemas import CompletionRequest, GenerationRequest
from ov_kvcrush.serve.settings import ServeSettings

# Below it a temperature is 0 to what divides by it in float32.
_COLD = 1e-6
_SEEDS = 2**63

_SAME = (
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "min_p",
    "presence_penalty",
    "repetition_penalty",
)


def generation_settings(
    request: GenerationRequest,
    defaults: GenerationConfig,
    settings: ServeSettings,
    context_length: int = 0,
) -> dict[str, Any]:
    """Keyword arguments of ``AsyncLLMPipeline.generate`` for one prompt of ``request``.

    What the request leaves open is the model's own; a seed is drawn. Several greedy answers are
    computed once.

    Args:
        request: what is asked for.
        defaults: the model's own settings; not changed.
        settings: of the server.
        context_length: tokens of prompt and answer; 0 where they are not bounded.

    Raises:
        ApiError: 400, with the field that is wrong.
    """
    _require_limits(request, settings)
    given = {name: getattr(request, name) for name in _SAME}
    chosen = {name: value for name, value in given.items() if value is not None}
    chosen |= _sampling(request, defaults)
    chosen |= _stops(request, defaults)
    chosen |= _length(request, settings, context_length)
    chosen |= _structure(request)
    if request.num_top is not None:
        chosen["logprobs"] = max(1, request.num_top)
    if isinstance(request, CompletionRequest):
        chosen["apply_chat_template"] = False
    return chosen


def require_room(request: GenerationRequest, num_prompt_tokens: int, context_length: int) -> None:
    """Raise ApiError 400 where a prompt and the answer that is asked for exceed the context.

    An answer whose length the request leaves open ends with the context.

    Args:
        request: what is asked for.
        num_prompt_tokens: of its prompt.
        context_length: tokens of both; 0 where they are not bounded.
    """
    wanted = request.token_limit or 1
    if 0 < context_length < num_prompt_tokens + wanted:
        raise context_exceeded(
            f"the prompt has {num_prompt_tokens:,} tokens, and with {wanted:,} of the answer "
            f"exceeds the {context_length:,} of the context\n"
            "Shorten the prompt, or ask for fewer tokens."
        )


def _require_limits(request: GenerationRequest, settings: ServeSettings) -> None:
    choices = request.num_choices
    if choices > settings.max_choices:
        raise invalid(f"n is {choices}, and at most {settings.max_choices} are made", "n")
    if request.stream and choices > 1:
        raise invalid(f"n is {choices}, and a stream has one answer", "n")
    if request.stream and request.num_prompts > 1:
        raise invalid(f"{request.num_prompts} prompts, and a stream answers one", "prompt")
    if request.num_prompts * choices > settings.max_choices:
        raise invalid(
            f"{request.num_prompts} prompts with {choices} answers each, and at most "
            f"{settings.max_choices} are made",
            "n",
        )
    stops = request.stop or []
    if len(stops) > settings.max_stop_strings:
        raise invalid(
            f"{len(stops):,} strings to stop at, and at most {settings.max_stop_strings} are taken",
            "stop",
        )
    if getattr(request, "top_logprobs", None) and request.num_top is None:
        raise invalid("top_logprobs tells of tokens only with logprobs", "top_logprobs")


def _sampling(request: GenerationRequest, defaults: GenerationConfig) -> dict[str, Any]:
    temperature, top_p = request.temperature, request.top_p
    samples = defaults.do_sample if temperature is None else temperature >= _COLD
    # The likeliest tokens that have probability 0 together: the one at least that is always kept.
    if not samples or top_p == 0:
        return {"do_sample": False}
    seed = secrets.randbelow(_SEEDS) if request.seed is None else request.seed % _SEEDS
    chosen: dict[str, Any] = {
        "do_sample": True,
        "rng_seed": seed,
        "num_return_sequences": request.num_choices,
    }
    if temperature is not None:
        chosen["temperature"] = temperature
    if top_p is not None:
        chosen["top_p"] = top_p
    if request.top_k is not None:
        chosen["top_k"] = request.top_k if request.top_k > 0 else GenerationConfig().top_k
    return chosen


def _stops(request: GenerationRequest, defaults: GenerationConfig) -> dict[str, Any]:
    """The model's own stops stay: they are how it ends."""
    chosen: dict[str, Any] = {}
    if request.stop:
        chosen["stop_strings"] = defaults.stop_strings | set(request.stop)
    if request.stop_token_ids:
        chosen["stop_token_ids"] = defaults.stop_token_ids | set(request.stop_token_ids)
    return chosen


def _length(
    request: GenerationRequest, settings: ServeSettings, context_length: int
) -> dict[str, Any]:
    """Always a longest length: with eviction a model that repeats itself never fills the cache."""
    limit = request.token_limit
    if limit is not None and 0 < context_length < limit:
        raise context_exceeded(
            f"{limit:,} tokens are asked for, and the context has {context_length:,}",
            param=_limit_name(request),
        )
    longest = limit or settings.max_answer_tokens
    shortest = request.min_tokens
    if shortest is None:
        return {"max_new_tokens": longest}
    if shortest > longest:
        raise invalid(
            f"min_tokens is {shortest:,}, and the answer ends after {longest:,}", "min_tokens"
        )
    return {"max_new_tokens": longest, "min_new_tokens": shortest}


def _structure(request: GenerationRequest) -> dict[str, Any]:
    grammar = grammar_of(request)
    if grammar is None:
        return {}
    for name in ("ignore_eos", "min_tokens"):
        if getattr(request, name):
            raise invalid(
                f"{name} is asked for, and an answer of a given form ends where it is whole", name
            )
    return {"structured_output_config": grammar}


def grammar_of(request: GenerationRequest) -> Grammar | None:
    """What binds the text of an answer; None where any will do.

    Raises:
        ApiError: 400; it is too large, or there are two.
    """
    asked, other = request.response_format, request.structured_outputs
    try:
        grammar = None if asked is None else asked.to_grammar()
        if other is None:
            return grammar
        if grammar is not None:
            raise invalid(
                "the form of the answer is given by response_format too", "structured_outputs"
            )
        return other.to_grammar()
    except GrammarError as error:
        name = "response_format" if other is None else "structured_outputs"
        raise invalid_schema(str(error), name) from None


def _limit_name(request: GenerationRequest) -> str:
    return "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
