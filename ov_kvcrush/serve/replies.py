"""Answers as choices: whole ones, and the chunks of streams; those of ``/completions``."""

from __future__ import annotations

import time
import uuid
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ov_kvcrush.pipeline.deltas import Delta
from ov_kvcrush.pipeline.results import DecodedResults
from ov_kvcrush.serve.log_probs import ScoredTokens, completion_log_probs, num_characters
from ov_kvcrush.serve.reply import Reply, finish_reason
from ov_kvcrush.serve.schemas import GenerationRequest
from ov_kvcrush.serve.token_texts import TokenTexts
from ov_kvcrush.serve.usage import costs, usage

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class ChoicesReply(Reply):
    """The reply to a request whose answers are choices.

    Attributes:
        id: of it, the same in all chunks.
        model: name of the model, as it is answered.
        created: ``time.time()`` in whole seconds.
        num_choices: answers to each prompt.
        include_usage: whether a stream ends with its usage.
        num_top: tokens to be told in place of each; None where no log probabilities are wanted.
        texts: of the vocabulary.
    """

    id: str
    model: str
    created: int
    num_choices: int
    include_usage: bool
    num_top: int | None
    texts: TokenTexts

    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    @classmethod
    def of(cls, request: GenerationRequest, model: str, texts: TokenTexts, **more: Any) -> Self:
        """The reply that ``request`` gets, with a new id.

        Args:
            request: what is asked for.
            model: its name, as it is answered.
            texts: of the vocabulary.
            more: fields of this kind of reply.
        """
        return cls(
            id=f"{cls.prefix}-{uuid.uuid4().hex}",
            model=model,
            created=int(time.time()),
            num_choices=request.num_choices,
            include_usage=request.include_usage,
            num_top=request.num_top,
            texts=texts,
            **more,
        )

    def whole(self, answers: Sequence[DecodedResults]) -> dict[str, Any]:
        """The reply at once.

        Args:
            answers: one for each prompt. One that has fewer sequences than there are to be choices
                is greedy: they are all alike.
        """
        choices = [
            self._choice(answer, place % len(answer.texts))
            for answer in answers
            for place in range(self.num_choices)
        ]
        self.end = choices[0]["finish_reason"]
        return {
            **self._head(self.whole_object),
            "choices": [{"index": index, **choice} for index, choice in enumerate(choices)],
            "usage": usage(answers),
            "ov_kvcrush": costs(answers),
        }

    @abstractmethod
    def _choice(self, answer: DecodedResults, place: int) -> dict[str, Any]:
        """The sequence at ``place`` of ``answer``, without its index."""

    @abstractmethod
    def _log_probs(self, scored: ScoredTokens) -> dict[str, Any] | None:
        """``logprobs``, where they are wanted."""

    def _usage_events(self, results: DecodedResults) -> list[dict[str, Any]]:
        """What it cost; nothing where the request does not ask for it."""
        if not self.include_usage:
            return []
        body = {**self._head(self.chunk_object), "choices": [], "usage": usage([results])}
        return [{**body, "ov_kvcrush": costs([results])}]

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(
        self, piece: dict[str, Any], log_probs: dict[str, Any] | None, reason: str | None
    ) -> dict[str, Any]:
        choice = {"index": 0, **piece, "finish_reason": reason, "logprobs": log_probs}
        body = {**self._head(self.chunk_object), "choices": [choice]}
        return {**body, "usage": None} if self.include_usage else body


@dataclass
class CompletionReply(ChoicesReply):
    """The reply to a completion request.

    Attributes:
        offset: characters that chunks have given.
    """

    offset: int = 0

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def first_events(self) -> list[dict[str, Any]]:
        """Nothing: a text has no role."""
        return []

    def events(self, delta: Delta) -> list[dict[str, Any]]:
        """A piece of the answer."""
        tokens = ScoredTokens(delta.token_ids, delta.log_probs, delta.top)
        log_probs = self._log_probs(tokens) if delta.token_ids else None
        if self.num_top is not None:
            self.offset += num_characters(delta.token_ids, self.texts)
        if not delta.text and log_probs is None:
            return []
        return [self._chunk({"text": delta.text}, log_probs, None)]

    def last_events(self, results: DecodedResults) -> list[dict[str, Any]]:
        """Why the answer has ended, and what it cost."""
        self.end = finish_reason(results.finish_reasons[0])
        end = self._chunk({"text": ""}, None, self.end)
        return [end, *self._usage_events(results)]

    def _choice(self, answer: DecodedResults, place: int) -> dict[str, Any]:
        return {
            "text": answer.texts[place],
            "logprobs": self._log_probs(scored(answer, place)),
            "finish_reason": finish_reason(answer.finish_reasons[place]),
        }

    def _log_probs(self, scored: ScoredTokens) -> dict[str, Any] | None:
        if self.num_top is None:
            return None
        return completion_log_probs(scored, self.num_top, self.texts, self.offset)


def scored(answer: DecodedResults, place: int) -> ScoredTokens:
    """The tokens of the sequence at ``place`` of ``answer``."""
    return ScoredTokens(answer.tokens[place], answer.log_probs[place], answer.top[place])
