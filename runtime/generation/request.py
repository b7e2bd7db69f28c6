"""What an engine is asked for and what it answers, the same for every engine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ov_kvcrush.errors import ConfigError, OVKVCrushError, PromptError
from ov_kvcrush.runtime.engine_metrics import EngineMetrics
from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.generation.sampler import Sampler
from ov_kvcrush.runtime.generation.stopping import StopChecker

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, GenerationFinishReason, Tokenizer

    from ov_kvcrush.runtime.sequences.sequence import Sequence
    from ov_kvcrush.runtime.session_files.session_file import StoredSession


class Session:
    """A chat's cache between requests. Give it with each request; the engine fills and reuses it.

    Attributes:
        sequence: tokens and cache of the last request, None before the first and after the engine
            needed the pages for others.
        busy: whether a request is running on it.
        pinned: the engine may not take its pages for others.
        is_prefix: it is there for others to begin with, and no chat.
    """

    def __init__(self, pinned: bool = False, is_prefix: bool = False) -> None:
        self.sequence: Sequence | None = None
        self.busy = False
        self.pinned = pinned
        self.is_prefix = is_prefix

    @property
    def token_ids(self) -> list[int]:
        """Prompt and answer tokens of the last request, empty if there is no cache."""
        return [] if self.sequence is None else list(self.sequence.tokens)


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


def share_read(request: Request) -> float:
    """How much of the prompt of ``request`` is in the cache, 0 to 1."""
    sequence = request.generations[0].sequence
    if sequence is None:
        return 0.0
    return min(1.0, sequence.num_cached / len(request.prompt_ids))


class Engine(Protocol):
    """Runs requests a step at a time."""

    def add_request(
        self,
        prompt_ids: SequenceOf[int],
        config: GenerationConfig,
        session: Session | None = None,
        prefix: Session | None = None,
    ) -> Request:
        """Queue a prompt; its generations fill while ``step`` is called.

        Args:
            prompt_ids: all of its tokens.
            config: settings of the generation.
            session: chat whose cache is continued, and kept afterwards.
            prefix: parked cache of the prompt's beginning, where ``session`` has none.

        Raises:
            PromptError: the prompt is empty, can never fit, or does not begin with ``prefix``.
            UnsupportedError: ``config`` asks for what this engine does not offer.
        """

    def step(self) -> list[Request]:
        """Advance everything by one inference; the requests that got tokens."""

    def has_unfinished(self) -> bool:
        """Whether ``step`` has anything to do."""

    def cancel(self, request: Request) -> None:
        """Stop ``request`` where it is; its tokens so far stay."""

    def close_session(self, session: Session) -> None:
        """Free what ``session`` holds."""

    def save_session(self, session: Session, path: Path, about: Mapping[str, Any]) -> None:
        """Write what ``session`` has cached, and ``about``, to ``path``, whole or not at all.

        Raises:
            SessionError: it cannot be written.
            UnsupportedError: this engine keeps no caches.
        """

    def open_session(self, path: Path) -> AbstractContextManager[StoredSession]:
        """The session in the file at ``path``, proved to be whole and one of this model.

        Raises:
            SessionError: it is not.
            UnsupportedError: this engine keeps no caches.
        """

    def load_session(self, stored: StoredSession, session: Session) -> None:
        """Let ``session``, which has nothing cached, hold what was ``stored``.

        Raises:
            SessionError: there is no room for it, or this engine's policy needs what it has not.
        """

    def describe(self) -> dict[str, Any]:
        """What was really compiled and how much it holds, as JSON values."""

    def metrics(self) -> EngineMetrics:
        """What it holds now and what it has done."""
