"""One prompt and the sequences generated from it, as they grow."""

from __future__ import annotations

import time
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.errors import ConfigError, OVKVCrushError, PromptError
from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.generation.sampler import Sampler
from ov_kvcrush.runtime.generation.stopping import StopChecker
from ov_kvcrush.runtime.sequences.session import Session

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, GenerationFinishReason, Tokenizer

    from ov_kvcrush.runtime.sequences.sequence import Sequence


class Generation:
    """One sequence being generated: its sampler, its end, and what it cost.

    Attributes:
        index: which of the request's return sequences.
        sequence: tokens and cache, set by the engine.
        log_probs: of each token.
        finish_reason: None while it runs.
    """

    def __init__(
        self,
        index: int,
        prompt_ids: SequenceOf[int],
        config: GenerationConfig,
        tokenizer: Tokenizer,
    ) -> None:
        self.index = index
        self.sequence: Sequence | None = None
        self.metrics = GenerationMetrics(
            arrived=time.perf_counter(), num_prompt_tokens=len(prompt_ids)
        )
        self.log_probs: list[float] = []
        self.finish_reason: GenerationFinishReason | None = None
        self.checker = StopChecker(config, tokenizer, len(prompt_ids))
        self.sampler = Sampler(config, prompt_ids, index)

    def take(self, logits: NDArray[np.float32]) -> None:
        """Sample the next token of ``logits [vocab]``, and see whether it is the last."""
        sampled = self.sampler.sample(logits)
        self.metrics.token_times.append(time.perf_counter())
        self.log_probs.append(sampled.log_prob)
        if self.sequence is not None:
            self.sequence.tokens.append(sampled.token)
        self.finish_reason = self.checker.push(sampled.token)

    @property
    def tokens(self) -> list[int]:
        """Generated tokens that count as the answer."""
        return self.checker.tokens

    @property
    def score(self) -> float:
        """Sum of the log probabilities of the answer's tokens."""
        return sum(self.log_probs[: len(self.tokens)])


@dataclass
class Request:
    """One prompt and the sequences generated from it.

    Attributes:
        request_id: number given by the engine.
        prompt_ids: tokens of the whole prompt.
        generations: ``num_return_sequences`` of them.
        session: chat cache to continue and leave behind, if any.
        error: what ended it before it had any answer, if something of its own did.
    """

    request_id: int
    prompt_ids: list[int]
    generations: list[Generation]
    session: Session | None = None
    error: OVKVCrushError | None = None

    @property
    def finished(self) -> bool:
        """Whether every sequence is."""
        return all(g.finish_reason is not None for g in self.generations)


def new_request(
    number: int,
    prompt_ids: SequenceOf[int],
    config: GenerationConfig,
    tokenizer: Tokenizer,
    session: Session | None,
) -> Request:
    """A request that nothing has been done for yet.

    Raises:
        PromptError: the prompt is empty.
        ConfigError: ``session`` is answering another one.
    """
    prompt = [int(token) for token in prompt_ids]
    if not prompt:
        raise PromptError("the prompt is empty: it has no tokens", "Give at least one token.")
    if session is not None and session.busy:
        raise ConfigError("the chat session is still answering another request")
    generations = [
        Generation(index, prompt, config, tokenizer) for index in range(config.num_return_sequences)
    ]
    return Request(number, prompt, generations, session)
