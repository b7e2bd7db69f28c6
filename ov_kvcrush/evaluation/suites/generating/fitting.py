"""How much filler a sample takes to be of a wanted length."""

from __future__ import annotations

from collections.abc import Callable

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.suites.sample import Sample

# A sample this near is not brought nearer: each step tokenizes it anew.
_NEAR = 0.99
# Each unit of filler has a token at least; samples that stay short beyond that never get long.
_MOST_FILLER = 4


def fit(make: Callable[[int], Sample], count: Callable[[str], int], length: int) -> Sample:
    """The sample with as much filler as ``length`` tokens hold, found by bisection.

    Args:
        make: gives the sample with an amount of filler, from 0. More of it makes a sample longer,
            each unit by a token at least; all else about the sample should be the same.
        count: tokens of a text. It must not cut off long texts, as some tokenizers do.
        length: tokens of the sample at most, as :func:`num_tokens` counts them.

    Raises:
        ConfigError: the sample is longer even without filler, or ``count`` cuts texts off.
    """
    best = make(0)
    size = num_tokens(best, count)
    if size > length:
        raise ConfigError(
            f"a sample of {best.task} has at least {size:,} tokens with its answers, which is more "
            f"than the {length:,} that are wanted",
            "Ask for longer samples, or leave this task out.",
        )
    fits, high = 0, 1
    while True:
        larger = make(high)
        tokens = num_tokens(larger, count)
        if tokens > length:
            break
        if high > _MOST_FILLER * length:
            raise ConfigError(
                f"a sample of {best.task} cannot be made {length:,} tokens long: the tokenizer "
                f"counts {tokens:,} however long a text is",
                "Ask for shorter samples.",
            )
        best, size, fits, high = larger, tokens, high, 2 * high
    while high - fits > 1 and size < _NEAR * length:
        middle = (fits + high) // 2
        sample = make(middle)
        tokens = num_tokens(sample, count)
        if tokens > length:
            high = middle
        else:
            best, size, fits = sample, tokens, middle
    return best


def num_tokens(sample: Sample, count: Callable[[str], int]) -> int:
    """Tokens of all texts of ``sample`` and the room of its answers, without a chat template's.

    Args:
        sample: a conversation.
        count: tokens of a text.
    """
    first, *later = sample.questions
    asked = count(sample.context + first.text) + sum(count(question.text) for question in later)
    opened = len(sample.questions) * count(sample.opening) if sample.opening else 0
    replies = (
        max(question.most_tokens, count(question.reply) if question.reply else 0)
        for question in sample.questions
    )
    return asked + opened + sum(replies)
