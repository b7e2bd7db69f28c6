"""Truncation in the middle: both halves of a prompt stay, and its question."""

from __future__ import annotations

from pathlib import Path

import pytest
from openvino_genai import Tokenizer

from ov_kvcrush.errors import PromptError
from ov_kvcrush.evaluation.suites.longbench.samples import read_samples
from ov_kvcrush.evaluation.suites.longbench.truncation import truncate_middle
from ov_kvcrush.evaluation.suites.sample import Question, Sample
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder


def sample_of(context: str, question: str) -> Sample:
    return Sample("a", "t", context, (Question(question, ("yes",), "f1", 8),))


def count_words(text: str) -> int:
    return len(text.split())


LETTERS = sample_of("abcdefghij", "?!")


@pytest.mark.parametrize(
    ("most_tokens", "context"),
    [
        # 12 characters in all.
        (12, "abcdefghij"),
        # Five of the beginning, five of the end, of which two are the question.
        (10, "abcdehij"),
        (5, "abc"),
        # The question is as long as its half, and longer.
        (4, "ab"),
        (3, "a"),
        (2, ""),
    ],
)
def test_halves(most_tokens: int, context: str) -> None:
    cut = truncate_middle(LETTERS, most_tokens, len)
    assert (cut.context, cut.questions) == (context, LETTERS.questions)


def test_what_fits_is_left_alone_and_a_question_that_does_not_is_refused() -> None:
    assert truncate_middle(LETTERS, 12, len) is LETTERS
    with pytest.raises(PromptError, match="a: the question alone has 2 tokens, more than the 1 of"):
        truncate_middle(LETTERS, 1, len)


def test_long_texts_are_counted_in_pieces() -> None:
    sizes = []

    def count(text: str) -> int:
        sizes.append(len(text))
        return count_words(text)

    words = [f"w{n}" for n in range(30_000)]
    cut = truncate_middle(sample_of(" ".join(words), "\nWhich one?"), 20_000, count)
    assert max(sizes) <= 8192
    kept = cut.context.split()
    assert kept[:9_999] == words[:9_999]
    assert kept[-9_997:] == words[-9_997:]
    assert 19_996 <= len(kept) <= 19_998


def test_a_real_tokenizers_prompt_has_the_tokens_that_were_asked_for(needle_int8_dir: Path) -> None:
    encoder = PromptEncoder(Tokenizer(needle_int8_dir))

    def count(text: str) -> int:
        return len(encoder.encode_rest(encoder.plain(text)))

    samples = read_samples(tasks=["narrativeqa", "repobench-p", "2wikimqa"])
    for sample in samples:
        (question,) = sample.questions
        cut = truncate_middle(sample, 4000, count)
        whole, prompt = sample.context + question.text, cut.context + question.text
        if cut is sample:
            continue
        assert cut.questions == sample.questions
        # Where the halves meet, tokens may become one or two.
        assert 3960 <= count(prompt) <= 4010
        half = len(prompt) // 4
        assert whole.startswith(prompt[:half])
        assert whole.endswith(prompt[-half:])
    assert any(truncate_middle(sample, 4000, count) is not sample for sample in samples)
