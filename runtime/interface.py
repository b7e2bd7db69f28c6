"""What an engine is asked for, the same for every engine, and which engines there are."""

from __future__ import annotations

import dataclasses
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvino_genai import GenerationFinishReason

from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.precisions import SAME
from ov_kvcrush.runtime.engine_metrics import EngineMetrics
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.sequences.session import Session

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer

    from ov_kvcrush.config import KVCacheConfig
    from ov_kvcrush.runtime.grammar.grammar_builder import BuiltGrammar
    from ov_kvcrush.runtime.plugin.spare_thread import SpareThread
    from ov_kvcrush.runtime.session_files.held_session import HeldSession
    from ov_kvcrush.runtime.session_files.stored_session import StoredSession


@dataclass(frozen=True)
class EngineLimits:
    """How much an engine may do at once and hold, as ``SchedulerConfig`` says it.

    Attributes:
        max_num_batched_tokens: tokens of one inference, so the size of a prefill chunk.
        max_num_seqs: sequences that run at once.
        pool_bytes: size of the page pool where ``KVCacheConfig.pool_size`` does not say it; 0 is
            automatic.
        context_length: tokens of a prompt and its answer; 0 does not bound them.
        prompt_lookup: tokens that a step may guess of a sequence, from its own text, to compute
            them with the one that is known; 0 for none.
    """

    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 64
    pool_bytes: int = 0
    context_length: int = 0
    prompt_lookup: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be counted.

        Raises:
            ConfigError: a limit is not a whole number, or nothing could ever run.
        """
        least = {"max_num_batched_tokens": 1, "max_num_seqs": 1}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{field.name} is {value!r}; it takes a whole number")
            if value < least.get(field.name, 0):
                raise ConfigError(f"{field.name} is {value}, below {least.get(field.name, 0)}")


DEFAULT_LIMITS = EngineLimits()


@dataclass(frozen=True)
class EngineDescription:
    """What an engine really compiled and how much it holds; each adds what only it knows.

    Attributes:
        engine: name of the engine.
        device: it runs on.
        key_cache_precision: what keys are stored in, ``u8+u4`` where layers differ; None where it
            is not known.
        value_cache_precision: the same of values.
        kv_bytes_per_token: of all layers together; 0 where it is not known yet.
        page_size: tokens of a page.
        pool_tokens: tokens of whole sequences that the pool holds; None where it grows.
        max_num_batched_tokens: tokens of one inference.
        context_length: tokens of a prompt and its answer; 0 where they are not bounded.
        kv_cache_config: what the cache may hold.
    """

    engine: str
    device: str
    key_cache_precision: str | None
    value_cache_precision: str | None
    kv_bytes_per_token: float
    page_size: int
    pool_tokens: int | None
    max_num_batched_tokens: int
    context_length: int
    kv_cache_config: KVCacheConfig

    @property
    def computing(self) -> str:
        """What it computes in and why, as a line; empty where it is not known."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, the settings of the cache last."""
        body = dataclasses.asdict(self)
        del body["kv_cache_config"]
        return {**body, "kv_cache_config": self.kv_cache_config.to_dict()}


class Engine(ABC):
    """Runs requests a step at a time.

    Args:
        folder: exported model.
        tokenizer: turns tokens into text where stop strings need it; may be on its way, on
            ``spare``.
        device: name of the device, in any case.
        config: what the cache may hold, which tokens, in which precision; None keeps everything.
        properties: passed to the plugin.
        limits: how much it may do at once and hold.
        decode_precision: one of ``DECODE_PRECISIONS``.
        spare: begins when the model is about to be compiled; None where nothing waits.

    Raises:
        ModelError, UnsupportedError, DeviceError, ConfigError: as their names say, at construction.
    """

    @abstractmethod
    def __init__(
        self,
        folder: str | Path,
        tokenizer: Tokenizer | Future[Tokenizer],
        device: str = "CPU",
        config: KVCacheConfig | None = None,
        properties: Mapping[str, Any] | None = None,
        limits: EngineLimits = DEFAULT_LIMITS,
        decode_precision: str = SAME,
        spare: SpareThread | None = None,
    ) -> None: ...

    @abstractmethod
    def add_request(
        self,
        prompt_ids: SequenceOf[int],
        config: GenerationConfig,
        session: Session | None = None,
        prefix: Session | None = None,
        owner: str = "",
        grammar: BuiltGrammar | None = None,
    ) -> Request:
        """Queue a prompt; its generations fill while ``step`` is called.

        Args:
            prompt_ids: all of its tokens.
            config: settings of the generation.
            session: chat whose cache is continued, and kept afterwards.
            prefix: parked cache of the prompt's beginning, where ``session`` has none.
            owner: whose it is, where ``session`` does not say it: what is kept of its prompt is
                found by requests of the same owner only.
            grammar: what :meth:`build_grammar` makes of ``config``; without it that is done here.

        Raises:
            PromptError: the prompt is empty, has ids that are not the model's, can never fit, or
                does not begin with ``prefix``.
            ContextError: it leaves no room for an answer in the model's context.
            UnsupportedError: ``config`` asks for what this engine does not offer.
        """

    @abstractmethod
    def has_grammar(self, config: GenerationConfig) -> bool:
        """Whether :meth:`build_grammar` has at once what it returns."""

    @abstractmethod
    def build_grammar(self, config: GenerationConfig) -> BuiltGrammar | None:
        """What answers with ``config`` are bound to; None for nothing, or nothing to be built.

        From any thread, and while the engine goes on: a large grammar takes seconds.

        Raises:
            GrammarError: it is not one, is too large, or has what is not served.
            UnsupportedError: this engine does not serve such structures.
        """

    @abstractmethod
    def step(self) -> list[Request]:
        """Advance everything by one inference; the requests that got tokens."""

    @abstractmethod
    def has_unfinished(self) -> bool:
        """Whether ``step`` has anything to do."""

    @abstractmethod
    def cancel(
        self,
        request: Request,
        reason: GenerationFinishReason = GenerationFinishReason.NONE,
    ) -> None:
        """Stop ``request`` where it is; its tokens so far stay.

        Args:
            request: nothing happens where it has ended.
            reason: why; NONE is that nobody wants it any more.
        """

    @abstractmethod
    def close_session(self, session: Session) -> None:
        """Free what ``session`` holds, or is left by the request that runs on it."""

    @abstractmethod
    def hold_session(self, session: Session) -> HeldSession:
        """What ``session``, on which no request runs, has cached now, for any thread to write.

        Its pages are shared with whoever goes on from ``session``. They stay what they are as long
        as somebody holds what is returned; only where pages are short they may be given up before.

        Raises:
            UnsupportedError: this engine keeps no caches.
        """

    @abstractmethod
    def save_session(self, session: Session, path: Path, about: Mapping[str, Any]) -> None:
        """Write what ``session`` has cached, and ``about``, to ``path``, whole or not at all.

        Raises:
            SessionError: it cannot be written.
            UnsupportedError: this engine keeps no caches.
        """

    @abstractmethod
    def open_session(self, path: Path) -> AbstractContextManager[StoredSession]:
        """The session in the file at ``path``, proved to be whole and one of this model.

        Any thread may open one while the engine goes on.

        Raises:
            SessionError: it is not.
            UnsupportedError: this engine keeps no caches.
        """

    @abstractmethod
    def load_session(self, stored: StoredSession, session: Session) -> None:
        """Let ``session``, which has nothing cached, hold what was ``stored``.

        Raises:
            SessionRoomError: there is no room for it now.
            SessionError: this engine's policy needs what was not saved.
        """

    @abstractmethod
    def describe(self) -> EngineDescription:
        """What was really compiled and how much it holds."""

    @abstractmethod
    def metrics(self) -> EngineMetrics:
        """What it holds now and what it has done."""

    def check_integrity(self) -> None:
        """Prove that nothing it holds is lost; an engine that cannot look into its cache does not.

        Raises:
            RuntimeError: something is.
        """
        return


ENGINES = {
    "paged": ("ov_kvcrush.runtime.paged.engine", "PagedEngine"),
    "genai": ("ov_kvcrush.runtime.genai.engine", "GenaiEngine"),
}
"""``paged`` is our own, on CPU; ``genai`` drives openvino_genai's, on any device it serves."""


def make_engine(
    name: str,
    folder: Path,
    tokenizer: Tokenizer | Future[Tokenizer],
    device: str,
    config: KVCacheConfig,
    properties: Mapping[str, Any],
    limits: EngineLimits,
    decode_precision: str = SAME,
    spare: SpareThread | None = None,
) -> Engine:
    """The engine called ``name``, with the model in ``folder``.

    Raises:
        ConfigError: there is no such engine; else as :class:`Engine`.
        UnsupportedError: it has no such ``decode_precision``; else likewise.
    """
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}", did_you_mean(name, ENGINES))
    module, attribute = ENGINES[name]
    engine: type[Engine] = getattr(importlib.import_module(module), attribute)
    return engine(folder, tokenizer, device, config, properties, limits, decode_precision, spare)
