"""Pieces of an answer: text as it becomes certain, and the tokens that it is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ov_kvcrush.runtime.generation.growing_text import GrowingText
from ov_kvcrush.runtime.generation.progress import Progress, TopTokens

if TYPE_CHECKING:
    from openvino_genai import Tokenizer


@dataclass(frozen=True)
class Delta:
    """A piece of an answer. All texts together are the answer's, all tokens the answer's tokens.

    Attributes:
        text: whole characters; empty only where the last tokens have none.
        token_ids: the tokens that begin in ``text``; none where it goes on inside one.
        log_probs: natural log probability of each token: the model's own where ``logprobs`` asks
            for it, else that of the distribution it was drawn from, which is 0 for a greedy one.
        top: in place of each token the ``logprobs`` likeliest ones and their log probabilities, the
            likeliest first; empty where it is 0 and with the genai engine, which does not tell.
    """

    text: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    top: tuple[TopTokens, ...]


class DeltaReader:
    """Makes deltas of one sequence's progress.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._text = GrowingText(tokenizer)
        self._decoded = ""
        self._num_shown = 0
        self._waiting: list[_Token] = []
        self._num_given = 0

    def read(self, progress: Progress) -> Delta | None:
        """What has become certain with ``progress``; None where nothing has."""
        rows = zip(progress.token_ids, progress.log_probs, progress.top, strict=True)
        for token, log_prob, top in rows:
            self._waiting.append(_Token(self._end, token, log_prob, top))
            self._decoded += self._text.push(token).text
        if progress.finished:
            self._decoded += self._text.end().text
        text = self._take_text(progress.text_end)
        if progress.finished:
            count = progress.num_settled - self._num_given
        else:
            count = sum(one.begin < self._num_shown for one in self._waiting)
        given, self._waiting = self._waiting[:count], self._waiting[count:]
        self._num_given += len(given)
        if not text and not given:
            return None
        return Delta(
            text,
            tuple(one.token for one in given),
            tuple(one.log_prob for one in given),
            tuple(one.top for one in given),
        )

    @property
    def _end(self) -> int:
        """Characters decoded so far, those shown included."""
        return self._num_shown + len(self._decoded)

    def _take_text(self, text_end: int | None) -> str:
        count = len(self._decoded) if text_end is None else max(0, text_end - self._num_shown)
        text, self._decoded = self._decoded[:count], self._decoded[count:]
        self._num_shown += len(text)
        return text


@dataclass(frozen=True)
class _Token:
    """A token that waits for its text, which begins at character ``begin``."""

    begin: int
    token: int
    log_prob: float
    top: TopTokens
