"""Which generation settings are served, and what the settings of one call add up to."""

from __future__ import annotations

import openvino_genai
import pytest
from openvino_genai import GenerationConfig, StructuredOutputConfig

from ov_kvcrush.errors import ConfigError, PromptError, UnsupportedError
from ov_kvcrush.runtime.generation.settings import (
    REFUSED,
    SERVED,
    max_new_tokens,
    refuse_unsupported,
    resolve_generation_config,
)

ASKED_FOR = {
    "assistant_confidence_threshold": 0.4,
    "branching_factor": 2,
    "diversity_penalty": 0.5,
    "echo": True,
    "length_penalty": 0.8,
    "no_repeat_ngram_size": 3,
    "num_beam_groups": 2,
    "num_beams": 4,
    "parsers": [openvino_genai.ReasoningParser()],
    "pruning_ratio": 10,
    "relevance_weight": 0.0,
    "return_omni_outputs": True,
    "stop_criteria": openvino_genai.StopCriteria.EARLY,
    "tree_depth": 2,
}


def default_config() -> GenerationConfig:
    return GenerationConfig(eos_token_id=2, max_new_tokens=64)


def settings_of(config: GenerationConfig) -> dict[str, object]:
    names = [name for name in dir(config) if not name.startswith("_")]
    values = {name: getattr(config, name) for name in names}
    return {name: value for name, value in values.items() if not callable(value)}


def test_every_setting_of_the_installed_class_is_served_or_refused() -> None:
    assert not SERVED & REFUSED.keys()
    assert settings_of(GenerationConfig()).keys() == SERVED | REFUSED.keys()


def test_every_refused_setting_but_adapters_is_asked_for_below() -> None:
    assert ASKED_FOR.keys() == REFUSED.keys() - {"adapters"}  # an adapter needs a file of weights


@pytest.mark.parametrize("name", ASKED_FOR)
def test_a_refused_setting_is_refused_wherever_it_comes_from(name: str) -> None:
    config = GenerationConfig(max_new_tokens=1)
    setattr(config, name, ASKED_FOR[name])
    with pytest.raises(UnsupportedError, match=f"^{name} is .*does not serve {REFUSED[name]}"):
        refuse_unsupported(config)
    with pytest.raises(UnsupportedError, match=name):
        resolve_generation_config(default_config(), config, {})
    with pytest.raises(UnsupportedError, match=name):
        resolve_generation_config(default_config(), {name: ASKED_FOR[name]}, {})
    with pytest.raises(UnsupportedError, match=name) as refusal:
        resolve_generation_config(default_config(), None, {name: ASKED_FOR[name]})
    assert f"Leave {name} at its default" in refusal.value.hint


def test_adapters_are_refused_only_when_there_are_some() -> None:
    config = default_config()
    config.adapters = openvino_genai.AdapterConfig()
    refuse_unsupported(config)
    with pytest.raises(UnsupportedError, match="LoRA"):
        resolve_generation_config(default_config(), None, {"adapters": "lora.safetensors"})


def test_a_refused_setting_at_its_default_is_accepted() -> None:
    off = {"num_beams": 1, "num_assistant_tokens": 0, "parsers": [], "echo": False}
    assert resolve_generation_config(default_config(), None, off).num_beams == 1


def test_unknown_name_is_an_error_with_the_closest_one() -> None:
    with pytest.raises(ConfigError, match="max_tokens") as error:
        resolve_generation_config(default_config(), None, {"max_tokens": 3})
    assert "'max_new_tokens'" in error.value.hint
    with pytest.raises(ConfigError, match="temperatur"):
        resolve_generation_config(default_config(), {"temperatur": 3}, {})


def test_every_served_setting_arrives() -> None:
    values = {
        "apply_chat_template": False,
        "do_sample": True,
        "eos_token_id": 7,
        "frequency_penalty": 0.25,
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "logprobs": 1,
        "max_length": 90,
        "max_new_tokens": 9,
        "min_new_tokens": 3,
        "min_p": 0.125,
        "num_return_sequences": 2,
        "presence_penalty": 0.5,
        "repetition_penalty": 1.5,
        "rng_seed": 11,
        "stop_strings": {"a", "b"},
        "stop_token_ids": {7, 8},
        "temperature": 0.75,
        "top_k": 12,
        "top_p": 0.5,
    }
    # Of several answers at once openvino_genai lets none be drafted.
    drafts = {"num_assistant_tokens": 5, "max_ngram_size": 3}
    # What has a form of its own ends where it is whole.
    form = {"structured_output_config": StructuredOutputConfig(regex="a+")}
    assert values.keys() == SERVED - drafts.keys() - form.keys()
    bound = resolve_generation_config(default_config(), None, form).structured_output_config
    assert bound is not None
    assert bound.regex == "a+"
    drafting = resolve_generation_config(default_config(), None, drafts)
    assert {name: getattr(drafting, name) for name in drafts} == drafts
    by_name = resolve_generation_config(default_config(), None, values)
    as_config = resolve_generation_config(default_config(), GenerationConfig(**values), {})
    assert {name: getattr(by_name, name) for name in values} == values
    assert {name: getattr(as_config, name) for name in values} == values


def test_no_argument_is_changed() -> None:
    default, config = default_config(), GenerationConfig(max_new_tokens=5)
    mapping, kwargs = {"top_k": 3}, {"stop_strings": ["x"], "temperature": 0.5}
    before = settings_of(default), settings_of(config)
    resolve_generation_config(default, config, kwargs)
    resolve_generation_config(default, mapping, kwargs)
    assert (settings_of(default), settings_of(config)) == before
    assert mapping == {"top_k": 3}
    assert kwargs == {"stop_strings": ["x"], "temperature": 0.5}


def test_a_config_replaces_the_default_and_a_mapping_changes_it() -> None:
    default = GenerationConfig(eos_token_id=2, max_new_tokens=64, repetition_penalty=1.5)
    replaced = resolve_generation_config(default, GenerationConfig(max_length=9), {"top_k": 3})
    assert (replaced.max_length, replaced.top_k, replaced.repetition_penalty) == (9, 3, 1.0)
    changed = resolve_generation_config(default, {"top_k": 3, "top_p": 0.5}, {"top_p": 0.25})
    assert (changed.max_new_tokens, changed.top_k, changed.top_p) == (64, 3, 0.25)
    assert changed.repetition_penalty == 1.5


@pytest.mark.parametrize(
    ("config", "kwargs", "eos", "stop"),
    [
        (None, {}, 2, {2, 3}),
        (None, {"stop_token_ids": {5}}, 2, {2, 5}),
        (None, {"eos_token_id": 5}, 5, {2, 3, 5}),
        (GenerationConfig(), {}, 2, {2, 3}),
        (GenerationConfig(stop_token_ids={5}), {}, 2, {2, 5}),
        (GenerationConfig(eos_token_id=5), {}, 5, {5}),
    ],
)
def test_stop_tokens_are_taken_from_the_default_where_left_open(
    config: GenerationConfig | None, kwargs: dict[str, object], eos: int, stop: set[int]
) -> None:
    default = GenerationConfig(eos_token_id=2, stop_token_ids={3})
    resolved = resolve_generation_config(default, config, kwargs)
    assert (resolved.eos_token_id, resolved.stop_token_ids) == (eos, stop)


def test_a_model_without_eos_needs_another_end() -> None:
    assert resolve_generation_config(GenerationConfig(), None, {"max_new_tokens": 1})
    with pytest.raises(ConfigError, match="should be defined"):
        resolve_generation_config(GenerationConfig(), None, {})


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("stop_strings", ["a", "b", "a"], {"a", "b"}),
        ("stop_strings", "ab", {"ab"}),
        ("stop_token_ids", (5, 6), {2, 5, 6}),
        ("temperature", 2, 2.0),
    ],
)
def test_a_value_may_be_of_a_kindred_type(name: str, given: object, taken: object) -> None:
    assert getattr(resolve_generation_config(default_config(), None, {name: given}), name) == taken


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", -1),
        ("max_new_tokens", "5"),
        ("max_new_tokens", None),
        ("top_k", 5.5),
        ("temperature", "warm"),
        ("do_sample", "yes"),
        ("stop_strings", [1]),
        ("stop_token_ids", 5),
        ("stop_token_ids", ["a"]),
    ],
)
def test_a_value_of_another_type_is_an_error_that_says_what_it_takes(
    name: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is .*; it takes "):
        resolve_generation_config(default_config(), None, {name: value})


def test_a_config_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigError, match="not a str"):
        resolve_generation_config(default_config(), "greedy", {})


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"max_new_tokens": 0}, "'max_new_tokens' must be greater than 0"),
        ({"do_sample": True, "top_p": 2.0}, "When 'do_sample' is true, top_p must"),
        ({"do_sample": True, "temperature": 0.0}, "When 'do_sample' is true, temperature must"),
        ({"do_sample": True, "temperature": float("inf")}, "temperature is inf"),
        ({"num_return_sequences": 2}, "'num_return_sequences' can be more than 1 only"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens must be less or equal"),
        ({"eos_token_id": -5}, "'stop_token_ids' must be non-negative"),
        ({"logprobs": 21}, "logprobs is 21; at most 20"),
        ({"stop_strings": {"a", ""}}, "stop_strings holds an empty string"),
    ],
)
def test_a_wrong_value_is_one_useful_sentence(kwargs: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_generation_config(default_config(), None, kwargs)
    assert error.value.message.startswith(sentence)
    assert ".cpp" not in str(error.value)


def test_max_new_tokens_counts_before_max_length() -> None:
    assert max_new_tokens(GenerationConfig(max_new_tokens=5, max_length=6), 100) == 5
    assert max_new_tokens(GenerationConfig(max_length=12), 10) == 2
    assert max_new_tokens(GenerationConfig(), 10) > 2**60


def test_a_prompt_as_long_as_max_length_is_refused() -> None:
    with pytest.raises(PromptError, match="prompt has 12 tokens and max_length 12"):
        max_new_tokens(GenerationConfig(max_length=12), 12)
