"""A model ready to be asked: engine, tokenizer, settings and lock; every prompt runs through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvino_genai import (
    GenerationConfig,
    GenerationFinishReason,
    StreamingStatus,
    Tokenizer,
)

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.model_folder import (
    context_length,
    load_tokenizer,
    require_graph,
    require_tokenizer,
)
from ov_kvcrush.pipeline.call_times import timed_call
from ov_kvcrush.pipeline.prompt_encoder import Conversation, PromptEncoder
from ov_kvcrush.pipeline.prompt_reader import MAX_KEPT_HISTORIES, PromptReader
from ov_kvcrush.pipeline.reading import OnReading, ReadingProgress
from ov_kvcrush.pipeline.results import DecodedResults, EncodedResults, decoded, encoded, ranked
from ov_kvcrush.pipeline.special_tokens import added_tokens
from ov_kvcrush.pipeline.streaming import AnswerStream, Streamer, open_stream
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.runtime.generation.model_settings import load_model_settings
from ov_kvcrush.runtime.generation.request import Generation, Request
from ov_kvcrush.runtime.generation.settings import resolve_generation_config
from ov_kvcrush.runtime.interface import EngineLimits, make_engine
from ov_kvcrush.runtime.plugin.ir_file import begin_reading
from ov_kvcrush.runtime.plugin.spare_thread import SpareThread
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.serving.engine_lock import EngineLock
from ov_kvcrush.signals import DeferredSignals, deferred_signals

if TYPE_CHECKING:
    from ov_kvcrush.config import KVCacheConfig
    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
    from ov_kvcrush.pipeline.prompts import Prompt


class LoadedModel:
    """What pipelines, chats and cached prefixes of one model have in common.

    Args:
        folder: exported model.
        tokenizer: instead of the folder's own.
        device: device name, in any case.
        config: what the KV cache may hold.
        limits: of the engine.
        properties: of the plugin.
        engine: name of the engine.
        decode_precision: as of :class:`ov_kvcrush.LLMPipeline`.
        parse_special: as of :class:`ov_kvcrush.LLMPipeline`.
        max_kept_histories: likewise.

    Attributes:
        engine: runs the prompts; for whoever holds ``lock`` alone.
        lock: held during a step and whatever else is done with the engine.
        tokenizer: of the model.
        reader: makes prompts of texts and histories.
        context_length: tokens that a prompt and its answer may have; 0 where they are not bounded.
        last: sequences of the last call.

    Raises:
        ModelError, ConfigError, DeviceError, UnsupportedError: as they say.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer | None,
        device: str,
        *,
        config: KVCacheConfig,
        limits: EngineLimits,
        properties: Mapping[str, Any],
        engine: str,
        decode_precision: str,
        parse_special: bool = False,
        max_kept_histories: int = MAX_KEPT_HISTORIES,
    ) -> None:
        begun = time.perf_counter()
        require_graph(folder)
        if tokenizer is None:
            require_tokenizer(folder)
        begin_reading(folder)
        spare = SpareThread()
        loading = spare.add(lambda: tokenizer or load_tokenizer(folder))
        encoder = spare.add(
            lambda: PromptEncoder(loading.result(), added_tokens(folder), parse_special)
        )
        self.engine = make_engine(
            engine, folder, loading, device, config, properties, limits, decode_precision, spare
        )
        self.tokenizer = loading.result()
        self._settings = load_model_settings(folder, self.tokenizer)
        self.reader = PromptReader(encoder.result(), self.engine.close_session, max_kept_histories)
        self.context_length = limits.context_length
        self.lock = EngineLock()
        self.last: list[Generation] = []
        self._load_ms = 1e3 * (time.perf_counter() - begun)

    def settings(
        self,
        config: GenerationConfig | Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> GenerationConfig:
        """The settings of one call: ``config`` in place of the model's own, ``changes`` over both.

        Raises:
            ConfigError, UnsupportedError: as :func:`resolve_generation_config`.
        """
        return resolve_generation_config(self._settings, config, changes or {})

    def set_settings(self, config: GenerationConfig) -> None:
        """Replace the settings that apply where a call gives none."""
        self._settings = self.settings(config)

    def answer(
        self,
        conversation: Conversation,
        config: GenerationConfig,
        streamer: Streamer | None = None,
        session: Session | None = None,
        prefix: CachedPrefix | None = None,
        progress: OnReading | None = None,
    ) -> DecodedResults:
        """Answer a conversation, going on from ``session`` or ``prefix``; the rest as ``run``."""
        with timed_call():
            rendered = self.reader.encoder.render(conversation)

            def read() -> list[Prompt]:
                return [self.reader.read_history(rendered, config, session, prefix)]

            return self.decoded(self._run(read, config, streamer, progress))

    def run(
        self,
        prompts: Sequence[Prompt],
        config: GenerationConfig,
        streamer: Streamer | None = None,
        progress: OnReading | None = None,
    ) -> list[Generation]:
        """Generate from ``prompts`` until all are finished; the sequences of each, best first.

        Streamer and progress are called between two steps, with the engine at rest: they may call
        whatever they like, another generation too, and Ctrl+C reaches them.

        Args:
            prompts: run together.
            config: resolved settings of all of them.
            streamer: of the one sequence that is made.
            progress: told how far the reading of the prompts is.

        Raises:
            ConfigError, PromptError, UnsupportedError: before anything runs.
            KeyboardInterrupt: Ctrl+C, after the current step; everything is released.
        """
        return self._run(lambda: prompts, config, streamer, progress)

    def _run(
        self,
        read: Callable[[], Sequence[Prompt]],
        config: GenerationConfig,
        streamer: Streamer | None = None,
        progress: OnReading | None = None,
    ) -> list[Generation]:
        """As :meth:`run`, of the prompts that ``read`` gives while nobody else begins a request."""
        requests: list[Request] = []
        grammar = self.engine.build_grammar(config)
        # Signals wait until all has been given back; then whoever they are for gets them.
        with deferred_signals() as signals, ExitStack() as endings:
            with self.lock:
                prompts = read()
                if streamer is not None and (len(prompts) > 1 or config.num_return_sequences > 1):
                    raise ConfigError(
                        "a streamer shows one sequence, and this call makes several",
                        "Give one prompt with num_return_sequences=1, or no streamer.",
                    )
                for prompt in prompts:
                    request = self.engine.add_request(
                        prompt.ids, config, prompt.session, prompt.prefix, grammar=grammar
                    )
                    requests.append(request)
                    endings.callback(self._end, requests[-1])
            stream = None
            if streamer is not None:
                stream = open_stream(streamer, requests[0].generations[0], self.tokenizer)
            self._drive(requests, stream, signals, progress)
        return self.ranked(requests)

    def close_session(self, session: Session) -> None:
        """Free what ``session`` holds."""
        with deferred_signals(), self.lock:
            self.engine.close_session(session)

    def ranked(self, requests: Sequence[Request]) -> list[Generation]:
        """Sequences of finished requests, those of a prompt best first: the last call's.

        Raises:
            OVKVCrushError: what ended a request before it had any answer.
        """
        self.last = ranked(requests)
        return self.last

    def decoded(self, generations: Sequence[Generation]) -> DecodedResults:
        """Their texts and what they cost."""
        return decoded(self.tokenizer, generations, self._load_ms)

    def encoded(self, generations: Sequence[Generation]) -> EncodedResults:
        """Their token ids and what they cost."""
        return encoded(generations, self._load_ms)

    def metrics(self) -> dict[str, Any]:
        """As :meth:`ov_kvcrush.LLMPipeline.get_metrics`."""
        return {
            **self.engine.metrics().to_dict(),
            "last": [generation.metrics.to_dict() for generation in self.last],
        }

    def _end(self, request: Request) -> None:
        with self.lock:
            if not request.finished:
                self.engine.cancel(request)

    def _drive(
        self,
        requests: Sequence[Request],
        stream: AnswerStream | None,
        signals: DeferredSignals,
        progress: OnReading | None,
    ) -> None:
        if progress is not None:
            with signals.breaking_off():
                progress(ReadingProgress.of(requests))
        while not all(request.finished for request in requests):
            with self.lock:
                self.engine.step()
            if signals.have_come:
                return
            if progress is None and stream is None:
                continue
            with signals.breaking_off():
                if progress is not None:
                    progress(ReadingProgress.of(requests))
                if stream is not None and stream.advance() != StreamingStatus.RUNNING:
                    break
        if stream is not None:
            with signals.breaking_off():
                stream.end()
            with self.lock:
                self._end_as_told(requests[0], stream.status)

    def _end_as_told(self, request: Request, status: StreamingStatus) -> None:
        """End what a streamer has stopped with STOP, what it has cancelled with NONE."""
        if status == StreamingStatus.STOP:
            self.engine.cancel(request, GenerationFinishReason.STOP)
        elif status == StreamingStatus.CANCEL:
            self.engine.cancel(request)
            request.generations[0].finish_reason = GenerationFinishReason.NONE


def model_context_length(folder: Path) -> int:
    """Tokens the model in ``folder`` was made to read, as plan or config say; 0 where neither does.

    Raises:
        ModelError: its plan is damaged.
    """
    plan = KVPlan.load(folder)
    return (plan.context_length if plan else 0) or context_length(folder)
