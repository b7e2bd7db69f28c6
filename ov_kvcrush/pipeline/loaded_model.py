"""A model ready to be asked: engine, tokenizer, settings and lock; every prompt runs through it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvino_genai import ChatHistory, GenerationConfig, StreamingStatus, Tokenizer

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.pipeline.prompt_reader import PromptReader
from ov_kvcrush.pipeline.results import DecodedResults, EncodedResults, decoded, encoded, ranked
from ov_kvcrush.pipeline.streaming import (
    DeferredSignals,
    Streamer,
    TokenStream,
    as_streamer,
    deferred_signals,
)
from ov_kvcrush.runtime.generation.model_settings import load_model_settings
from ov_kvcrush.runtime.generation.request import Generation, Request, share_read
from ov_kvcrush.runtime.generation.settings import resolve_generation_config
from ov_kvcrush.runtime.interface import EngineLimits, make_engine
from ov_kvcrush.runtime.sequences.session import Session

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

    Attributes:
        engine: runs the prompts; for whoever holds ``lock`` alone.
        lock: held during a step and whatever else is done with the engine.
        tokenizer: of the model.
        reader: makes prompts of texts and histories.
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
        decode_precision: str | None,
    ) -> None:
        begun = time.perf_counter()
        self.tokenizer = tokenizer or load_tokenizer(folder)
        self.engine = make_engine(
            engine, folder, self.tokenizer, device, config, properties, limits, decode_precision
        )
        self._settings = load_model_settings(folder, self.tokenizer)
        self.reader = PromptReader(self.tokenizer, self.engine.close_session)
        self.lock = threading.Lock()
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
        history: ChatHistory,
        config: GenerationConfig,
        streamer: Streamer | None = None,
        session: Session | None = None,
        prefix: CachedPrefix | None = None,
    ) -> DecodedResults:
        """Answer a chat history, going on from ``session`` or from ``prefix``."""
        text = self.tokenizer.apply_chat_template(history, add_generation_prompt=True)
        with self.lock:
            prompt = self.reader.read_history(text, config, session, prefix)
        return self.decoded(self.run([prompt], config, streamer))

    def run(
        self,
        prompts: Sequence[Prompt],
        config: GenerationConfig,
        streamer: Streamer | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> list[Generation]:
        """Generate from ``prompts`` until all are finished; the sequences of each, best first.

        Args:
            prompts: run together.
            config: resolved settings of all of them.
            streamer: of the one sequence that is made.
            progress: called with the share of the prompts that has been read, 0 to 1.

        Raises:
            ConfigError, PromptError, UnsupportedError: before anything runs.
            KeyboardInterrupt: Ctrl+C, after the current step; everything is released.
        """
        if streamer is not None and (len(prompts) > 1 or config.num_return_sequences > 1):
            raise ConfigError(
                "a streamer shows one sequence, and this call makes several",
                "Give one prompt with num_return_sequences=1, or no streamer.",
            )
        requests: list[Request] = []
        # Signals wait until all has been given back; then whoever they are for gets them.
        with self.lock, deferred_signals() as signals, ExitStack() as endings:
            for prompt in prompts:
                requests.append(
                    self.engine.add_request(prompt.ids, config, prompt.session, prompt.prefix)
                )
                endings.callback(self._end, requests[-1])
            stream = None
            if streamer is not None:
                sink = as_streamer(streamer, self.tokenizer)
                stream = TokenStream(sink, requests[0].generations[0].checker)
            self._drive(requests, stream, signals, progress)
        return self.ranked(requests)

    def close_session(self, session: Session) -> None:
        """Free what ``session`` holds."""
        with self.lock:
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
        if not request.finished:
            self.engine.cancel(request)

    def _drive(
        self,
        requests: Sequence[Request],
        stream: TokenStream | None,
        signals: DeferredSignals,
        progress: Callable[[float], None] | None,
    ) -> None:
        while not all(request.finished for request in requests):
            self.engine.step()
            if progress is not None:
                progress(sum(map(share_read, requests)) / len(requests))
            if signals.have_come:
                return
            if stream is not None and stream.advance() != StreamingStatus.RUNNING:
                break
        if stream is not None:
            stream.end()
