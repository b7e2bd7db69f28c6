"""Log probabilities in the two forms that clients know."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from openai.types.chat.chat_completion import ChoiceLogprobs
from openai.types.completion_choice import Logprobs

from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.serve.log_probs import (
    ScoredTokens,
    chat_log_probs,
    completion_log_probs,
    num_characters,
)
from ov_kvcrush.serve.token_texts import TokenTexts


@pytest.fixture(scope="module")
def texts(needle_int8_dir: Path) -> TokenTexts:
    return TokenTexts(load_tokenizer(needle_int8_dir))


@pytest.fixture(scope="module")
def scored(needle_int8_dir: Path) -> ScoredTokens:
    """``" hello é😀"``, and an end."""
    tokenizer = load_tokenizer(needle_int8_dir)
    ids = tokenizer.encode(" hello é😀", add_special_tokens=False).input_ids.data[0].tolist()
    ids.append(tokenizer.get_eos_token_id())
    top = [((token, -0.25), (ids[0], -2.0), (ids[1], -math.inf)) for token in ids]
    return ScoredTokens(ids, [-0.25] * len(ids), top)


def test_a_chat_tells_of_each_token_with_its_bytes(scored: ScoredTokens, texts: TokenTexts) -> None:
    body = chat_log_probs(scored, 2, texts)
    told = ChoiceLogprobs.model_validate(body, strict=True).content or []
    assert len(told) == len(scored.token_ids)
    assert b"".join(bytes(one.bytes or []) for one in told).decode() == " hello é😀"
    assert {len(one.top_logprobs) for one in told} == {2}
    assert all(one.top_logprobs[0].token == one.token for one in told)
    assert told[-1].token == "<|eos|>"


def test_as_many_alternatives_are_told_as_are_asked_for(
    scored: ScoredTokens, texts: TokenTexts
) -> None:
    body = chat_log_probs(scored, 0, texts)
    assert all(one["top_logprobs"] == [] for one in body["content"])


def test_what_cannot_be_is_a_number(scored: ScoredTokens, texts: TokenTexts) -> None:
    body = chat_log_probs(scored, 3, texts)
    assert json.dumps(body, allow_nan=False)
    assert body["content"][0]["top_logprobs"][2]["logprob"] == -9999.0


def test_a_completion_tells_where_in_the_text_each_token_begins(
    scored: ScoredTokens, texts: TokenTexts
) -> None:
    told = Logprobs.model_validate(completion_log_probs(scored, 1, texts), strict=True)
    assert told.tokens == [
        *[" he", "ll", "o", " ", "\\xc3", "\\xa9", "\\xf0", "\\x9f", "\\x98", "\\x80"],
        "<|eos|>",
    ]
    assert told.text_offset == [0, 3, 5, 6, 7, 8, 8, 9, 9, 9, 9]
    assert told.token_logprobs == [-0.25] * 11
    assert num_characters(scored.token_ids, texts) == len(" hello é😀")


def test_a_completion_tells_of_the_token_itself_too(
    scored: ScoredTokens, texts: TokenTexts
) -> None:
    second = ScoredTokens(scored.token_ids[1:2], [-3.0], [((scored.token_ids[0], -0.1),)])
    assert completion_log_probs(second, 1, texts, offset=7) == {
        "tokens": ["ll"],
        "token_logprobs": [-3.0],
        "top_logprobs": [{" he": -0.1, "ll": -3.0}],
        "text_offset": [7],
    }
    assert completion_log_probs(second, 0, texts)["top_logprobs"] == [{"ll": -3.0}]
