"""What a model can read, checked before a request is made of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from openvino_genai import GenerationConfig, Tokenizer

from ov_kvcrush.errors import ContextError, PromptError
from ov_kvcrush.runtime.generation.request import PromptLimits, new_request
from ov_kvcrush.runtime.generation.settings import LONGEST_ANSWER


@pytest.mark.parametrize("wrong", [-5, 100, 2**40])
def test_ids_that_are_not_the_models_are_refused(wrong: int) -> None:
    with pytest.raises(PromptError, match=rf"token id {wrong} at position 2 .* 0 to 99"):
        PromptLimits(100).check([1, 2, wrong, 3])


def test_all_ids_of_the_model_are_taken() -> None:
    PromptLimits(100).check([0, 99])
    PromptLimits().check([10**6])  # where the model does not tell


def test_a_prompt_needs_a_token() -> None:
    with pytest.raises(PromptError, match="no tokens"):
        PromptLimits(100).check([])


def test_a_prompt_leaves_room_for_a_token_of_the_answer() -> None:
    limits = PromptLimits(100, context_length=8)
    limits.check([1] * 7)
    with pytest.raises(ContextError, match=r"has 8 tokens, .* within the 8 ") as raised:
        limits.check([1] * 8)
    again = pickle.loads(pickle.dumps(raised.value))
    assert (again.num_tokens, again.limit, str(again)) == (8, 8, str(raised.value))


@pytest.mark.parametrize(
    ("settings", "context_length", "wanted"),
    [
        ({"max_new_tokens": 3}, 20, 3),
        ({"max_new_tokens": 300}, 20, 10),
        ({"max_new_tokens": 300, "min_new_tokens": 200}, 20, 10),
        ({}, 20, 10),
        ({"max_length": 13}, 20, 3),
        ({"max_length": 130}, 20, 10),
        ({}, 0, LONGEST_ANSWER),
        ({"max_new_tokens": 10**6}, 0, 10**6),
    ],
)
def test_an_answer_ends_with_the_context(
    needle_int8_dir: Path, settings: dict[str, int], context_length: int, wanted: int
) -> None:
    config = GenerationConfig(ignore_eos=True, do_sample=False, **settings)
    limits = PromptLimits(100, context_length)
    request = new_request(0, [5] * 10, config, Tokenizer(needle_int8_dir), None, limits)
    checker = request.generations[0].checker
    if wanted > 1000:
        assert request.config.max_new_tokens == wanted
        return
    for _ in range(wanted):
        assert request.generations[0].finish_reason is None
        request.generations[0].finish_reason = checker.push(7)
    assert request.finished
    assert request.config.min_new_tokens <= wanted
