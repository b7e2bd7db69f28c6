"""A model's ``generation_config.json``: what of it counts, and what is said of the rest."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from openvino_genai import GenerationConfig, Tokenizer

from ov_kvcrush import LLMPipeline
from ov_kvcrush.errors import ModelError, OVKVCrushWarning, UnsupportedError
from ov_kvcrush.runtime.generation.model_settings import load_model_settings
from ov_kvcrush.runtime.generation.settings import SERVED, resolve_generation_config
from tests.support.folders import linked

BEAMS = {"num_beams": 4, "no_repeat_ngram_size": 3}


@pytest.fixture(scope="module")
def tokenizer(needle_int8_dir: Path) -> Tokenizer:
    return Tokenizer(needle_int8_dir)


@pytest.fixture
def folder(needle_int8_dir: Path, tmp_path: Path) -> Path:
    """The model without settings of its own."""
    return linked(needle_int8_dir, tmp_path, without="generation_config.json")


def write(folder: Path, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "generation_config.json").write_text(text, encoding="utf-8")


def changed(config: GenerationConfig) -> dict[str, object]:
    values = {name: (getattr(config, name), getattr(GenerationConfig(), name)) for name in SERVED}
    return {name: value for name, (value, default) in values.items() if value != default}


def read(folder: Path, tokenizer: Tokenizer, content: object) -> dict[str, object]:
    """What counts of ``content``, about which nothing is to be said."""
    write(folder, content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return changed(load_model_settings(folder, tokenizer))


def test_what_is_served_counts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    content = {"do_sample": True, "temperature": 0.5, "top_k": 20, "max_length": 90}
    ends = {"eos_token_id": 7, "stop_token_ids": {7}}
    assert read(tmp_path, tokenizer, {**content, "eos_token_id": 7}) == {**content, **ends}


def test_a_list_of_end_tokens_are_all_ends(tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = read(tmp_path, tokenizer, {"eos_token_id": [7, 9]})
    assert found == {"eos_token_id": 7, "stop_token_ids": {7, 9}}


@pytest.mark.parametrize("content", [{}, {"eos_token_id": None}, {"eos_token_id": []}])
def test_an_end_that_is_not_told_is_the_tokenizers(
    tmp_path: Path, tokenizer: Tokenizer, content: object
) -> None:
    assert read(tmp_path, tokenizer, content) == {"eos_token_id": 2, "stop_token_ids": {2}}


def test_a_folder_without_the_file_has_the_tokenizers_end(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    assert load_model_settings(tmp_path, tokenizer).eos_token_id == 2


@pytest.mark.parametrize(
    "content",
    [
        {"_from_model_config": True, "transformers_version": "4.51.0", "use_cache": True},
        {"pad_token_id": 0, "bos_token_id": 1, "return_dict_in_generate": True},
        {"num_beams": 1, "early_stopping": True, "length_penalty": 0.8, "diversity_penalty": 0.0},
        {"num_assistant_tokens": 20, "num_assistant_tokens_schedule": "constant"},
        {"typical_p": 1.0, "suppress_tokens": [], "forced_eos_token_id": None, "min_length": 0},
        {"top_k": 0, "num_return_sequences": 1},
        {"temperature": 0},
    ],
)
def test_of_what_changes_no_answer_nothing_is_said(
    tmp_path: Path, tokenizer: Tokenizer, content: dict[str, object]
) -> None:
    assert read(tmp_path, tokenizer, content) == read(tmp_path, tokenizer, {})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BEAMS, ["num_beams is 4", "no_repeat_ngram_size is 3"]),
        ({"echo": True}, ["echo is True"]),
        ({"bad_words_ids": [[5]] * 99}, ["bad_words_ids is [[5], [5], ", "...]"]),
        ({"frobnicate": 3}, ["frobnicate is 3, which is not known here"]),
        ({"num_return_sequences": 3}, ["num_return_sequences is 3"]),
        ({"max_new_tokens": "many"}, ["max_new_tokens is 'many'; it takes a whole number"]),
        ({"max_new_tokens": True}, ["max_new_tokens is True; it takes a whole number"]),
        ({"max_length": -1}, ["max_length is -1"]),
        ({"top_k": 10**30}, ["top_k is 10000"]),
        ({"do_sample": "yes"}, ["do_sample is 'yes'; it takes True or False"]),
        ({"do_sample": True, "temperature": 0}, ["do_sample is True beside temperature 0"]),
        ({"temperature": -1}, ["temperature must be a strictly positive float"]),
        ({"temperature": [0.5]}, ["temperature is [0.5]; it takes a number"]),
        ({"top_p": 0}, ["top_p must be a positive float"]),
        ('{"presence_penalty": NaN}', ["'presence_penalty'"]),
        ('{"repetition_penalty": Infinity}', ["repetition_penalty is inf"]),
        ({"eos_token_id": -5}, ["'stop_token_ids' must be non-negative"]),
        ({"eos_token_id": ["a"]}, ["eos_token_id is 'a'"]),
        ({"eos_token_id": False}, ["eos_token_id is False"]),
        ({"stop_strings": [3]}, ["stop_strings is [3]"]),
        ({"stop_strings": ["a", ""]}, ["stop_strings holds an empty string"]),
        ({"structured_output_config": {"regex": "a"}}, ["structured_output_config is"]),
    ],
)
def test_what_cannot_count_is_left_out_with_one_note_that_names_it(
    tmp_path: Path, tokenizer: Tokenizer, content: object, said: list[str]
) -> None:
    write(tmp_path, content)
    with pytest.warns(OVKVCrushWarning) as notes:
        found = changed(load_model_settings(tmp_path, tokenizer))
    assert found == {"eos_token_id": 2, "stop_token_ids": {2}}
    (note,) = (str(one.message) for one in notes)
    assert note.startswith(f"{tmp_path / 'generation_config.json'}: left out: ")
    assert all(part in note for part in said), note
    assert "\n" not in note
    assert ".cpp" not in note


def test_of_two_that_contradict_one_another_the_first_counts(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    write(tmp_path, {"max_new_tokens": 5, "min_new_tokens": 9})
    with pytest.warns(OVKVCrushWarning, match="min_new_tokens must be less"):
        found = load_model_settings(tmp_path, tokenizer)
    assert (found.max_new_tokens, found.min_new_tokens) == (5, 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "holds a list, not a JSON object"),
        ("3", "holds a int, not a JSON object"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused_by_name(
    tmp_path: Path, tokenizer: Tokenizer, content: str, reason: str
) -> None:
    write(tmp_path, content)
    with pytest.raises(ModelError, match=rf"generation_config\.json {reason}"):
        load_model_settings(tmp_path, tokenizer)


def test_a_file_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (tmp_path / "generation_config.json").write_bytes(b'{"\xff": 1}')
    with pytest.raises(ModelError, match=r"generation_config\.json is not valid JSON"):
        load_model_settings(tmp_path, tokenizer)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").mkdir()
    with pytest.raises(ModelError, match=r"cannot read .*generation_config\.json"):
        load_model_settings(tmp_path, tokenizer)


def test_whatever_the_model_says_the_caller_can_use_it(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    write(tmp_path, {"temperature": 0, "top_k": 0, "min_new_tokens": 50, "max_new_tokens": 64})
    own = load_model_settings(tmp_path, tokenizer)
    sampled = resolve_generation_config(own, None, {"do_sample": True, "max_new_tokens": 5})
    assert (sampled.max_new_tokens, sampled.min_new_tokens) == (5, 5)
    longer: dict[str, Any] = {"min_new_tokens": 70}
    assert resolve_generation_config(own, None, longer).max_new_tokens == 70


def test_a_model_of_beam_search_answers_and_its_caller_is_still_refused_beams(
    folder: Path,
) -> None:
    write(folder, BEAMS)
    with pytest.warns(OVKVCrushWarning, match="num_beams"):
        pipe = LLMPipeline(folder)
    assert pipe.get_generation_config().num_beams == 1
    assert pipe.generate("Hello", max_new_tokens=2)
    with pytest.raises(UnsupportedError, match="num_beams is 4"):
        pipe.generate("Hello", GenerationConfig(num_beams=4, max_new_tokens=2))
