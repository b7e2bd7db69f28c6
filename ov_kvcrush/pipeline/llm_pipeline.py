"""``LLMPipeline``: openvino_genai's interface over an engine that keeps the KV cache small."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openvino as ov
from openvino_genai import (
    ChatHistory,
    GenerationConfig,
    SchedulerConfig,
    StreamingStatus,
    TokenizedInputs,
    Tokenizer,
)

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, SessionError
from ov_kvcrush.model_folder import load_generation_config, load_tokenizer
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix, reading_config
from ov_kvcrush.pipeline.chat import Chat
from ov_kvcrush.pipeline.prompt_reader import PromptReader
from ov_kvcrush.pipeline.prompts import Prompt, require_texts, token_rows
from ov_kvcrush.pipeline.results import DecodedResults, EncodedResults, decoded, encoded, ranked
from ov_kvcrush.pipeline.saving import SessionSummary, read_what, write_what
from ov_kvcrush.pipeline.scheduler_config import read_scheduler_config
from ov_kvcrush.pipeline.streaming import TokenStream, as_streamer, deferred_interrupt
from ov_kvcrush.runtime.generation.request import Generation, Request, share_read
from ov_kvcrush.runtime.generation.settings import resolve_generation_config
from ov_kvcrush.runtime.interface import EngineLimits, engine_class
from ov_kvcrush.runtime.sequences.session import Session


class LLMPipeline:
    """Generates text with an exported model; drops in for ``openvino_genai.LLMPipeline``.

    Different on purpose: unknown arguments raise, what is not served says so at construction, a
    streamer's exception comes out as itself, and Ctrl+C ends ``generate`` within a step.

    Args:
        models_path: folder with the IR and its tokenizer.
        tokenizer: instead of the folder's own; may be left out, as in openvino_genai.
        device: device name, in any case.
        config: plugin properties; ``scheduler_config`` may be among them.
        kv_cache_config: what the KV cache may hold; the default keeps everything.
        scheduler_config: openvino_genai's; its cache settings are read as ours.
        engine: ``"paged"`` or ``"genai"``.
        decode_precision: ``"f32"`` compiles the model a second time, to decode in f32: on CPUs
            whose own choice is bf16, compressed weights decode in about two thirds of the time so
            (docs/decoding.md says why), and take their memory twice.
        properties: more plugin properties.

    Raises:
        ModelError, ConfigError, DeviceError, UnsupportedError: at construction, as they say.
    """

    def __init__(
        self,
        models_path: str | Path,
        *args: Any,
        tokenizer: Tokenizer | None = None,
        device: str | None = None,
        config: Mapping[str, Any] | None = None,
        kv_cache_config: KVCacheConfig | None = None,
        scheduler_config: SchedulerConfig | None = None,
        engine: str = "paged",
        decode_precision: str | None = None,
        **properties: Any,
    ) -> None:
        begun = time.perf_counter()
        tokenizer, device, config = _read_positional(args, tokenizer, device, config)
        properties = {**(config or {}), **properties}
        scheduler_config = properties.pop("scheduler_config", scheduler_config)
        cache = kv_cache_config or KVCacheConfig()
        limits = EngineLimits()
        if scheduler_config is not None:
            cache, limits = read_scheduler_config(scheduler_config, cache)
        folder = Path(models_path)
        self._tokenizer = tokenizer or load_tokenizer(folder)
        make_engine = engine_class(engine)
        self._engine = make_engine(
            folder,
            self._tokenizer,
            device or "CPU",
            config=cache,
            properties=properties,
            decode_precision=decode_precision,
            **dataclasses.asdict(limits),
        )
        self._config = load_generation_config(folder, self._tokenizer)
        self._reader = PromptReader(self._tokenizer, self._engine.close_session)
        self._chat: Chat | None = None
        self._last: list[Generation] = []
        self._lock = threading.Lock()
        self._load_ms = 1e3 * (time.perf_counter() - begun)

    # -------------------------------------------------------------- openvino_genai's interface

    def generate(
        self,
        inputs: str | Sequence[str] | ChatHistory | ov.Tensor | TokenizedInputs,
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        streamer: Any = None,
        prefix: CachedPrefix | None = None,
        **kwargs: Any,
    ) -> str | DecodedResults | EncodedResults:
        """Generate from a text, several texts, a chat history, or token ids.

        A text goes through the model's chat template as the user's message, unless
        ``apply_chat_template`` is off; between ``start_chat`` and ``finish_chat`` it is the next
        message. The answer is not appended to a ``ChatHistory``; its cache is kept, and found again
        when a longer history begins with it.

        Args:
            inputs: what to continue; token ids as ``[batch, length]``.
            generation_config: replaces the pipeline's, or a mapping that changes some of it.
            streamer: called with each piece of text as ``callable``, or a ``StreamerBase``; returns
                whether to stop, or a ``StreamingStatus``. For one prompt and one sequence.
            prefix: from :meth:`cache_prefix`: the user's message is its text and then the input, a
                text or texts, and only that is read.
            kwargs: fields of ``GenerationConfig``.

        Returns:
            A ``str`` for a text (``DecodedResults`` for several sequences of it),
            ``DecodedResults`` for several texts or a history, ``EncodedResults`` for ids.

        Raises:
            ConfigError, PromptError, UnsupportedError: before anything runs.
            KeyboardInterrupt: Ctrl+C, after the current step; everything is released.
        """
        if prefix is None:
            if isinstance(inputs, ChatHistory):
                return self._generate_history(inputs, generation_config, streamer, kwargs, None)
            if isinstance(inputs, str) and self._chat is not None:
                return self._chat.ask(inputs, generation_config, streamer, **kwargs).texts[0]
        config = resolve_generation_config(self._config, generation_config, kwargs)
        if prefix is None and isinstance(inputs, (ov.Tensor, TokenizedInputs)):
            prompts = [Prompt(ids) for ids in token_rows(inputs)]
            return encoded(self._run(prompts, config, streamer), self._load_ms)
        prompts = [self._reader.read_text(text, config, prefix) for text in require_texts(inputs)]
        results = self._decoded(self._run(prompts, config, streamer))
        single = isinstance(inputs, str) and config.num_return_sequences == 1
        return results.texts[0] if single else results

    def get_generation_config(self) -> GenerationConfig:
        """A copy of the settings that apply where a call gives none."""
        return resolve_generation_config(self._config, None, {})

    def set_generation_config(self, config: GenerationConfig) -> None:
        """Replace the settings that apply where a call gives none."""
        self._config = resolve_generation_config(self._config, config, {})

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._tokenizer

    def start_chat(self, system_message: str = "") -> None:
        """Let ``generate(str)`` continue one conversation until ``finish_chat``."""
        self.finish_chat()
        self._chat = self.chat(system_message)

    def finish_chat(self) -> None:
        """End the conversation and free its cache; nothing happens where there is none."""
        if self._chat is not None:
            self._chat.close()
            self._chat = None

    # -------------------------------------------------------------- what is ours

    def chat(self, system_message: str = "", prefix: CachedPrefix | None = None) -> Chat:
        """A conversation that keeps its compressed cache between turns.

        Args:
            system_message: before the first message; with a ``prefix`` its own.
            prefix: from :meth:`cache_prefix`: the first message is its text and then the question.
        """
        return Chat(self, system_message, prefix)

    def cache_prefix(
        self,
        text: str,
        system_message: str = "",
        progress: Callable[[float], None] | None = None,
    ) -> CachedPrefix:
        """Read ``text`` once, cut its cache to the budget, and keep it for any number of questions.

        The user's message of later calls is ``text`` and then their input, so end it as it should
        stand before a question. Its pages stay until it is closed, whatever else needs room.
        ``progress`` is called with the share that has been read, 0 to 1, as it grows.

        Raises:
            PromptError: the text is empty, or does not fit the pool.
            UnsupportedError: this engine keeps no prefixes.
        """
        prefix = CachedPrefix(self, self._tokenizer, text, system_message)
        prompt = Prompt(prefix.token_ids, prefix.session)
        try:
            (generation,) = self._run([prompt], reading_config(), None, progress)
        except BaseException:
            prefix.close()
            raise
        prefix.metrics = generation.metrics
        return prefix

    def save_session(
        self,
        path: str | Path,
        what: Chat | CachedPrefix | None = None,
        *,
        overwrite: bool = False,
    ) -> SessionSummary:
        """Write a chat or a cached prefix with its cache to a file, whole or not at all.

        Args:
            path: replaced if it holds a session of the same kind; by convention ``*.safetensors``.
            what: None is the conversation of ``start_chat``.
            overwrite: replace whatever file is there.

        Raises:
            SessionError: there is nothing to save, another file is there, or it cannot be written.
            UnsupportedError: this engine keeps no caches.
        """
        what = what or self._chat
        if what is None:
            raise SessionError(
                "there is no conversation to save", "Give a chat or prefix, or call start_chat."
            )
        with self._lock:
            return write_what(self._engine, Path(path), what, overwrite)

    def load_session(self, path: str | Path) -> Chat | CachedPrefix:
        """What :meth:`save_session` wrote, with its cache, as if it had never been away.

        A chat whose cache had been given up is read anew in its next turn. The budget may be
        another one than when it was saved: the cache is cut to it when it is due.

        Raises:
            SessionError: the file is damaged, of another model or precision, or does not fit the
                pool; nothing is loaded then.
            UnsupportedError: this engine keeps no caches.
        """
        with self._lock:
            return read_what(self, self._engine, self._tokenizer, Path(path))

    def describe(self) -> dict[str, Any]:
        """What was really compiled, and what the cache may hold."""
        return self._engine.describe()

    def get_metrics(self) -> dict[str, Any]:
        """What the engine holds now and has done since it was made, as JSON values.

        ``kv_cache``: bytes of the pool, in use, and by kind of owner; ``requests``: running,
        waiting, ended, preempted; ``tokens``: read, reused, generated, kept and evicted;
        ``ttft_seconds`` and ``tpot_seconds``: cumulative histograms as Prometheus has them; what an
        engine does not tell is None. ``last``: what the last call's sequences cost.
        """
        return {
            **self._engine.metrics().to_dict(),
            "last": [generation.metrics.to_dict() for generation in self._last],
        }

    # -------------------------------------------------------------- how it is done

    def _generate_history(
        self,
        history: ChatHistory,
        generation_config: GenerationConfig | Mapping[str, Any] | None,
        streamer: Any,
        kwargs: Mapping[str, Any],
        session: Session | None,
        prefix: CachedPrefix | None = None,
    ) -> DecodedResults:
        config = resolve_generation_config(self._config, generation_config, kwargs)
        text = self._tokenizer.apply_chat_template(history, add_generation_prompt=True)
        with self._lock:
            prompt = self._reader.read_history(text, config, session, prefix)
        return self._decoded(self._run([prompt], config, streamer))

    def _close_session(self, session: Session) -> None:
        with self._lock:
            self._engine.close_session(session)

    def _run(
        self,
        prompts: Sequence[Prompt],
        config: GenerationConfig,
        streamer: Any,
        progress: Callable[[float], None] | None = None,
    ) -> list[Generation]:
        if streamer is not None and (len(prompts) > 1 or config.num_return_sequences > 1):
            raise ConfigError(
                "a streamer shows one sequence, and this call makes several",
                "Give one prompt with num_return_sequences=1, or no streamer.",
            )
        with self._lock, deferred_interrupt() as interrupted:
            requests: list[Request] = []
            try:
                for prompt in prompts:
                    requests.append(
                        self._engine.add_request(prompt.ids, config, prompt.session, prompt.prefix)
                    )
                stream = None
                if streamer is not None:
                    sink = as_streamer(streamer, self._tokenizer)
                    stream = TokenStream(sink, requests[0].generations[0].checker)
                self._drive(requests, stream, interrupted, progress)
            finally:
                for request in requests:
                    if not request.finished:
                        self._engine.cancel(request)
        return self._ranked(requests)

    def _drive(
        self,
        requests: Sequence[Request],
        stream: TokenStream | None,
        interrupted: Callable[[], bool],
        progress: Callable[[float], None] | None,
    ) -> None:
        while not all(request.finished for request in requests):
            self._engine.step()
            if progress is not None:
                progress(sum(map(share_read, requests)) / len(requests))
            if interrupted():
                raise KeyboardInterrupt
            if stream is not None and stream.advance() != StreamingStatus.RUNNING:
                break
        if stream is not None:
            stream.end()

    def _ranked(self, requests: Sequence[Request]) -> list[Generation]:
        """Sequences of finished requests; the metrics show them as the last call's."""
        self._last = ranked(requests)
        return self._last

    def _decoded(self, generations: Sequence[Generation]) -> DecodedResults:
        return decoded(self._tokenizer, generations, self._load_ms)


def _read_positional(
    args: tuple[Any, ...],
    tokenizer: Tokenizer | None,
    device: str | None,
    config: Mapping[str, Any] | None,
) -> tuple[Tokenizer | None, str | None, Mapping[str, Any] | None]:
    """openvino_genai's two orders: (tokenizer, device, config) and (device, config)."""
    rest = list(args)
    if rest and isinstance(rest[0], Tokenizer):
        tokenizer = rest.pop(0)
    if rest and isinstance(rest[0], str):
        device = rest.pop(0)
    if rest and isinstance(rest[0], Mapping):
        config = rest.pop(0)
    if rest:
        raise ConfigError(
            f"LLMPipeline does not take {type(rest[0]).__name__} {rest[0]!r} there",
            "Positional arguments: models_path, [tokenizer], device, config.",
        )
    return tokenizer, device, config
