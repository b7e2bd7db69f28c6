"""One prompt and the sequences generated from it, as they grow."""

from __future__ import annotations

import time
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from openvino_genai import GenerationFinishReason

from ov_kvcrush.errors import ConfigError, ContextError, PromptError
from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.generation.progress import Progress, TopTokens
from ov_kvcrush.runtime.generation.sampler import SampledToken, Sampler
from ov_kvcrush.runtime.generation.settings import bounded
from ov_kvcrush.runtime.generation.stopping import StopChecker
from ov_kvcrush.runtime.sequences.session import Session

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer

    from ov_kvcrush.runtime.generation.drafter import Drafter
    from ov_kvcrush.runtime.grammar.grammar_builder import BuiltGrammar
    from ov_kvcrush.runtime.sequences.sequence import Sequence


class Generation:
    """One sequence being generated: its sampler, its end, and what it cost.

    Attributes:
        index: which of the request's return sequences.
        sequence: tokens and cache, set by the engine.
        log_probs: of each token, also of those that a stop string has taken back.
        top: the likeliest tokens in place of each, as ``logprobs`` asks for them.
        finish_reason: None while it runs.
        drafter: guesses what comes next; None where nothing does.
    """

    def __init__(
        self,
        index: int,
        prompt_ids: SequenceOf[int],
        config: GenerationConfig,
        tokenizer: Tokenizer,
        grammar: BuiltGrammar | None = None,
    ) -> None:
        self.index = index
        self.sequence: Sequence | None = None
        self.metrics = GenerationMetrics(
            arrived=time.perf_counter(), num_prompt_tokens=len(prompt_ids)
        )
        self.log_probs: list[float] = []
        self.top: list[TopTokens] = []
        self.finish_reason: GenerationFinishReason | None = None
        self.checker = StopChecker(config, tokenizer, len(prompt_ids))
        mask = None if grammar is None else grammar.mask(config.stop_token_ids)
        self.sampler = Sampler(config, prompt_ids, index, mask)
        self.drafter: Drafter | None = None

    def take(self, logits: NDArray[np.float32], drafts: SequenceOf[int] = ()) -> None:
        """Sample the next token, and those behind it as long as the drafts are what is sampled.

        Every token is sampled from the row that it would have without drafts, by the same sampler:
        which tokens come, and how often, does not depend on what is drafted (speculative sampling
        where the draft is certain of its tokens: Leviathan et al., arXiv 2211.17192).

        Args:
            logits: ``[1 + drafts, vocab]`` behind the sequence's last token and each draft.
            drafts: guesses of the next tokens, in order.
        """
        num_true = 0
        for draft, row in zip([*drafts, None], logits, strict=True):
            sampled = self.sampler.sample(row)
            if self.sequence is not None:
                self.sequence.tokens.append(sampled.token)
            self.append(sampled, time.perf_counter())
            if self.finish_reason is not None or sampled.token != draft:
                break
            num_true += 1
        self.metrics.num_drafted_tokens += len(drafts)
        self.metrics.num_accepted_tokens += num_true

    def append(self, sampled: SampledToken, ready_at: float) -> None:
        """Take the next token, ready at a clock's ``ready_at``, and see whether it is the last."""
        self.metrics.token_times.append(ready_at)
        self.log_probs.append(sampled.log_prob)
        self.top.append(sampled.top)
        self.finish_reason = self.checker.push(sampled.token)
        if self.sampler.has_ended:
            self.end(GenerationFinishReason.STOP)

    def end(self, reason: GenerationFinishReason) -> None:
        """End it where it is, if it has not ended."""
        if self.finish_reason is not None:
            return
        try:
            if self.checker.end():
                reason = GenerationFinishReason.STOP
        finally:
            self.finish_reason = reason

    def progress(self, num_known: int) -> Progress:
        """What has come behind the first ``num_known`` tokens."""
        # First what comes last: another thread may be at work meanwhile.
        finished = self.finish_reason is not None
        text_end, num_settled = self.checker.text_end, self.checker.num_settled
        tokens = self.tokens[num_known:]
        new = slice(num_known, num_known + len(tokens))
        return Progress(tokens, self.log_probs[new], self.top[new], num_settled, text_end, finished)

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
        config: its settings; the answer they allow ends within the model's context.
        generations: ``num_return_sequences`` of them.
        session: chat cache to continue and leave behind, if any.
        error: what ended it before its answer was finished, if something of its own did.
    """

    request_id: int
    prompt_ids: list[int]
    config: GenerationConfig
    generations: list[Generation]
    session: Session | None = None
    error: Exception | None = None

    @property
    def finished(self) -> bool:
        """Whether every sequence is."""
        return all(g.finish_reason is not None for g in self.generations)

    def fail(self, error: Exception) -> None:
        """End it with ``error``, which something of its own has raised."""
        self.error = error
        for generation in self.generations:
            if generation.finish_reason is None:
                generation.finish_reason = GenerationFinishReason.NONE


@dataclass(frozen=True)
class PromptLimits:
    """What a model can read.

    Attributes:
        num_token_ids: its token ids are below this number; 0 where that is not known.
        context_length: tokens of prompt and answer together; 0 where they are not bounded.
    """

    num_token_ids: int = 0
    context_length: int = 0

    def check(self, prompt: SequenceOf[int]) -> None:
        """Refuse a prompt that the model cannot read.

        Raises:
            PromptError: it is empty, or has ids that are not the model's.
            ContextError: it leaves no room for an answer.
        """
        if not prompt:
            raise PromptError("the prompt is empty: it has no tokens", "Give at least one token.")
        wrong = [token for token in (min(prompt), max(prompt)) if not self._knows(token)]
        if wrong:
            raise PromptError(
                f"token id {wrong[0]} at position {prompt.index(wrong[0]):,} of the prompt is not "
                f"one of the model's, which are 0 to {self.num_token_ids - 1:,}",
                "Give ids of the model's own tokenizer. If they are, it has tokens that the model "
                "was never given: leave them out of the text.",
            )
        if 0 < self.context_length <= len(prompt):
            raise ContextError(len(prompt), self.context_length)

    def _knows(self, token: int) -> bool:
        return token >= 0 and (token < self.num_token_ids or not self.num_token_ids)


def new_request(
    number: int,
    prompt_ids: SequenceOf[int],
    config: GenerationConfig,
    tokenizer: Tokenizer,
    session: Session | None,
    limits: PromptLimits,
    grammar: BuiltGrammar | None = None,
) -> Request:
    """A request that nothing has been done for yet.

    Raises:
        PromptError: as :meth:`PromptLimits.check`.
        ConfigError: ``session`` is answering another one.
    """
    prompt = [int(token) for token in prompt_ids]
    limits.check(prompt)
    config = bounded(config, len(prompt), limits.context_length)
    if session is not None and session.busy:
        raise ConfigError("the chat session is still answering another request")
    generations = [
        Generation(index, prompt, config, tokenizer, grammar)
        for index in range(config.num_return_sequences)
    ]
    return Request(number, prompt, config, generations, session)
