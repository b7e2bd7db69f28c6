"""Settings of a generation made of a request's fields."""

from __future__ import annotations

from typing import Any

import pytest
from openvino_genai import GenerationConfig

from ov_kvcrush.runtime.generation.settings import resolve_generation_config
from ov_kvcrush.serve.errors import ApiError
from ov_kvcrush.serve.sampling import generation_settings, require_room
from ov_kvcrush.serve.schemas import ChatRequest, CompletionRequest
from ov_kvcrush.serve.settings import ServeSettings

SETTINGS = ServeSettings(("m",), max_choices=8, max_stop_strings=4, max_answer_tokens=100)
HELLO = [{"role": "user", "content": "Hello"}]


def model_settings(**fields: Any) -> GenerationConfig:
    config = GenerationConfig()
    config.set_eos_token_id(2)
    for name, value in fields.items():
        setattr(config, name, value)
    return config


GREEDY = model_settings()
SAMPLING = model_settings(do_sample=True, temperature=0.7, top_p=0.8, top_k=20)


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": HELLO, **fields})


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "prompt": "Hello", **fields})


def settings(
    request: ChatRequest | CompletionRequest,
    defaults: GenerationConfig = GREEDY,
    context_length: int = 0,
) -> dict[str, Any]:
    given = generation_settings(request, defaults, SETTINGS, context_length)
    resolve_generation_config(defaults, None, given)  # the pipeline takes them
    return given


def refusal(request: ChatRequest | CompletionRequest, context_length: int = 0) -> ApiError:
    with pytest.raises(ApiError) as caught:
        settings(request, context_length=context_length)
    assert caught.value.status == 400
    return caught.value


def test_a_request_that_says_nothing_is_answered_as_the_model_says() -> None:
    assert settings(chat()) == {"do_sample": False, "max_new_tokens": 100}
    sampled = settings(chat(), SAMPLING)
    assert sampled.pop("rng_seed") >= 0
    assert sampled == {"do_sample": True, "num_return_sequences": 1, "max_new_tokens": 100}


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 1e-9}, {"top_p": 0}])
def test_what_leaves_one_token_is_greedy(fields: dict[str, float]) -> None:
    assert settings(chat(**fields), SAMPLING) == {"do_sample": False, "max_new_tokens": 100}


def test_a_temperature_samples() -> None:
    given = settings(chat(temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, seed=3))
    assert given == {
        "do_sample": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "rng_seed": 3,
        "num_return_sequences": 1,
        "max_new_tokens": 100,
    }


@pytest.mark.parametrize("top_k", [0, -1])
def test_no_top_k_is_all_tokens(top_k: int) -> None:
    assert settings(chat(temperature=1, top_k=top_k))["top_k"] == GenerationConfig().top_k


def test_a_seed_is_drawn_where_there_is_none() -> None:
    seeds = {settings(chat(temperature=1))["rng_seed"] for _ in range(8)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_negative_seed_is_a_seed() -> None:
    assert settings(chat(temperature=1, seed=-1))["rng_seed"] == 2**63 - 1


def test_several_answers_that_would_be_alike_are_computed_once() -> None:
    assert settings(chat(temperature=1, n=3))["num_return_sequences"] == 3
    assert "num_return_sequences" not in settings(chat(temperature=0, n=3))


def test_penalties_and_ends_keep_their_names() -> None:
    fields = {
        "presence_penalty": -2.0,
        "frequency_penalty": 2.0,
        "repetition_penalty": 1.1,
        "ignore_eos": True,
        "include_stop_str_in_output": True,
    }
    given = settings(chat(**fields))
    assert {name: given[name] for name in fields} == fields


def test_what_a_model_stops_at_stays() -> None:
    defaults = model_settings(stop_strings={"END"})
    given = settings(chat(stop=["a", "b"], stop_token_ids=[7]), defaults)
    assert given["stop_strings"] == {"END", "a", "b"}
    assert given["stop_token_ids"] == {2, 7}
    assert defaults.stop_strings == {"END"}


@pytest.mark.parametrize(("asked", "told"), [(None, None), (0, 1), (1, 1), (20, 20)])
def test_log_probabilities_are_the_models_own(asked: int | None, told: int | None) -> None:
    assert settings(completion(logprobs=asked)).get("logprobs") == told
    if asked is not None:
        assert settings(chat(logprobs=True, top_logprobs=asked))["logprobs"] == told


def test_a_completion_does_not_go_through_the_chat_template() -> None:
    assert settings(completion())["apply_chat_template"] is False
    assert "apply_chat_template" not in settings(chat())


def test_lengths_are_the_requests() -> None:
    given = settings(chat(max_tokens=500, min_tokens=9))
    assert (given["max_new_tokens"], given["min_new_tokens"]) == (500, 9)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 9}, "n"),
        ({"n": 2, "stream": True}, "n"),
        ({"stop": list("abcde")}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
        ({"min_tokens": 101}, "min_tokens"),
    ],
)
def test_what_contradicts_or_is_too_much_is_named(fields: dict[str, Any], param: str) -> None:
    assert refusal(chat(**fields)).param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"prompt": ["a", "b"], "stream": True}, "prompt"), ({"prompt": ["a"] * 3, "n": 3}, "n")],
)
def test_several_prompts_are_answered_at_once(fields: dict[str, Any], param: str) -> None:
    assert refusal(completion(**fields)).param == param
    assert settings(completion(prompt=["a"] * 4, n=2, temperature=1))["num_return_sequences"] == 2


def test_more_tokens_than_the_context_are_refused() -> None:
    error = refusal(chat(max_tokens=65), context_length=64)
    assert (error.code, error.param) == ("context_length_exceeded", "max_tokens")
    error = refusal(chat(max_completion_tokens=65), context_length=64)
    assert error.param == "max_completion_tokens"
    assert settings(chat(max_tokens=64), context_length=64)["max_new_tokens"] == 64


def test_prompt_and_answer_need_room() -> None:
    require_room(chat(max_tokens=14), 50, 64)
    require_room(chat(max_tokens=14), 51, 0)
    require_room(chat(), 63, 64)
    for request, num_prompt_tokens in ((chat(max_tokens=14), 51), (chat(), 64)):
        with pytest.raises(ApiError, match="64 of the context") as caught:
            require_room(request, num_prompt_tokens, 64)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.rejected == "context"
