"""Prompts cut to a number of tokens in the middle, as LongBench (arXiv 2308.14508) does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ov_kvcrush.errors import PromptError
from ov_kvcrush.evaluation.pieces import in_pieces
from ov_kvcrush.evaluation.suites.sample import Sample


def truncate_middle(sample: Sample, most_tokens: int, count: Callable[[str], int]) -> Sample:
    """``sample`` with as much of its prompt as has ``most_tokens``: both ends, not the middle.

    The prompt is the context and the first question. Half of its tokens are its beginning, half its
    end; where the question is longer than that, it stays whole and the beginning is shorter.

    Args:
        sample: not changed; returned where nothing has to go.
        most_tokens: of the prompt, without what a chat template adds.
        count: tokens of a text that stands behind others; asked for pieces of 8,192 characters or
            less, whose tokens are added up.

    Raises:
        PromptError: the question alone has more.
    """
    context, question = sample.context, sample.questions[0].text
    if _count_all(context + question, count) <= most_tokens:
        return sample
    asked = _count_all(question, count)
    if asked > most_tokens:
        raise PromptError(
            f"{sample.id}: the question alone has {asked:,} tokens, more than the {most_tokens:,} "
            "of a prompt",
            "Allow more tokens, or leave the task out.",
        )
    behind = max(0, most_tokens // 2 - asked)
    head = context[: _longest(context, most_tokens - asked - behind, count)]
    backwards = context[len(head) :][::-1]
    tail = _longest(backwards, behind, lambda text: count(text[::-1]))
    return dataclasses.replace(sample, context=head + context[len(context) - tail :])


def _longest(text: str, most_tokens: int, count: Callable[[str], int]) -> int:
    """Characters that the longest beginning of ``text`` has with at most ``most_tokens``."""
    begin = 0
    for piece in in_pieces(text):
        tokens = count(piece)
        if tokens > most_tokens:
            break
        most_tokens -= tokens
        begin += len(piece)
    else:
        return begin
    # Tokens grow with characters but for the last word, which may be one when it is whole.
    low, high = 0, len(piece)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(piece[:middle]) <= most_tokens else (low, middle)
    return begin + low


def _count_all(text: str, count: Callable[[str], int]) -> int:
    return sum(map(count, in_pieces(text)))
