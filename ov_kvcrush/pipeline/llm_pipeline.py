"""``LLMPipeline``: openvino_genai's interface over an engine that keeps the KV cache small."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import openvino as ov
from openvino_genai import (
    ChatHistory,
    GenerationConfig,
    SchedulerConfig,
    TokenizedInputs,
    Tokenizer,
)

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import PromptError, SessionError
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix, reading_config
from ov_kvcrush.pipeline.call_times import timed_call
from ov_kvcrush.pipeline.chat import Chat
from ov_kvcrush.pipeline.genai_arguments import (
    cache_config,
    plugin_properties,
    read_positional,
    read_prompt_lookup,
    read_scheduler_config,
)
from ov_kvcrush.pipeline.loaded_model import LoadedModel, model_context_length
from ov_kvcrush.pipeline.loading import load
from ov_kvcrush.pipeline.prompt_reader import MAX_KEPT_HISTORIES
from ov_kvcrush.pipeline.prompts import Prompt, require_texts, token_rows
from ov_kvcrush.pipeline.reading import OnReading
from ov_kvcrush.pipeline.results import DecodedResults, EncodedResults
from ov_kvcrush.pipeline.saving import SessionSummary, save
from ov_kvcrush.pipeline.streaming import Streamer
from ov_kvcrush.precisions import AUTO
from ov_kvcrush.runtime.interface import EngineDescription, EngineLimits


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
            (docs/decoding.md says why), and take their memory twice. ``"same"`` decodes in what
            prompts are read in; ``"auto"`` in f32 where that is faster and memory is there, which
            ``describe`` tells.
        parse_special: let what messages and documents spell be special tokens, as openvino_genai
            does: ``<|im_end|>`` in a text then ends the turn. Otherwise it is text like any other.
        context_length: tokens that a prompt and its answer may have together, instead of what the
            model was made for; 0 does not bound them. A longer prompt is refused, and an answer
            ends there.
        max_num_batched_tokens: tokens of one step, so the size of a prefill chunk, and how long a
            short request waits beside a long prompt; instead of ``scheduler_config``'s.
        max_num_seqs: sequences that run at once; instead of ``scheduler_config``'s.
        prompt_lookup: guess what comes next from the text so far, where that is faster, up to so
            many tokens a step (15 at most are of use); True for 10. Text that is copied or edited
            comes in a fraction of the time, by the same sampling (docs/decoding.md).
        max_kept_histories: conversations given as ``ChatHistory`` whose cache is kept to go on
            from, the last ones.
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
        decode_precision: str = AUTO,
        parse_special: bool = False,
        context_length: int | None = None,
        max_num_batched_tokens: int | None = None,
        max_num_seqs: int | None = None,
        prompt_lookup: bool | int = False,
        max_kept_histories: int = MAX_KEPT_HISTORIES,
        **properties: Any,
    ) -> None:
        tokenizer, device, config = read_positional(args, tokenizer, device, config)
        properties = {**(config or {}), **properties}
        scheduler_config = properties.pop("scheduler_config", scheduler_config)
        prompt_lookup = properties.pop("prompt_lookup", prompt_lookup)
        cache, limits = cache_config(kv_cache_config), EngineLimits()
        if scheduler_config is not None:
            cache, limits = read_scheduler_config(scheduler_config, cache)
        if context_length is None:
            context_length = model_context_length(Path(models_path))
        given = {
            "context_length": context_length,
            "max_num_batched_tokens": max_num_batched_tokens,
            "max_num_seqs": max_num_seqs,
            "prompt_lookup": read_prompt_lookup(prompt_lookup),
        }
        limits = dataclasses.replace(
            limits, **{name: limit for name, limit in given.items() if limit is not None}
        )
        self._model = LoadedModel(
            Path(models_path),
            tokenizer,
            device or "CPU",
            config=cache,
            limits=limits,
            properties=plugin_properties(properties),
            engine=engine,
            decode_precision=decode_precision,
            parse_special=parse_special,
            max_kept_histories=max_kept_histories,
        )
        self._chat: Chat | None = None

    # -------------------------------------------------------------- openvino_genai's interface

    def generate(
        self,
        inputs: str | Sequence[str] | ChatHistory | ov.Tensor | TokenizedInputs,
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        streamer: Streamer | None = None,
        prefix: CachedPrefix | None = None,
        progress: OnReading | None = None,
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
                whether to stop, or a ``StreamingStatus``. For one prompt and one sequence. Text
                comes as soon as no stop string can take it back; a ``StreamerBase`` gets whole
                tokens, the last of which a stop string may begin in.
            prefix: from :meth:`cache_prefix`: the user's message is its text and then the input, a
                text or texts, and only that is read.
            progress: told how far the reading of the prompts is, as it grows.
            kwargs: fields of ``GenerationConfig``.

        Returns:
            A ``str`` for a text (``DecodedResults`` for several sequences of it),
            ``DecodedResults`` for several texts or a history, ``EncodedResults`` for ids.

        Raises:
            ConfigError, PromptError, UnsupportedError: before anything runs.
            ContextError: the prompt leaves no room for an answer in the model's context.
            KeyboardInterrupt: Ctrl+C, after the current step; everything is released.
        """
        model = self._model
        if prefix is None and isinstance(inputs, str) and self._chat is not None:
            return self._chat.ask(inputs, generation_config, streamer, progress, **kwargs).texts[0]
        config = model.settings(generation_config, kwargs)
        if prefix is None and isinstance(inputs, ChatHistory):
            return model.answer(inputs, config, streamer, progress=progress)
        with timed_call():
            if prefix is None and isinstance(inputs, (ov.Tensor, TokenizedInputs)):
                prompts = [Prompt(ids) for ids in token_rows(inputs)]
                return model.encoded(model.run(prompts, config, streamer, progress))
            texts = require_texts(inputs)
            prompts = [model.reader.read_text(text, config, prefix) for text in texts]
            results = model.decoded(model.run(prompts, config, streamer, progress))
        single = isinstance(inputs, str) and config.num_return_sequences == 1
        return results.texts[0] if single else results

    def __call__(
        self,
        inputs: str | Sequence[str] | ChatHistory | ov.Tensor | TokenizedInputs,
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        streamer: Streamer | None = None,
        **kwargs: Any,
    ) -> str | DecodedResults | EncodedResults:
        """The same as :meth:`generate`."""
        return self.generate(inputs, generation_config, streamer, **kwargs)

    def get_generation_config(self) -> GenerationConfig:
        """A copy of the settings that apply where a call gives none."""
        return self._model.settings()

    def set_generation_config(self, config: GenerationConfig) -> None:
        """Replace the settings that apply where a call gives none."""
        self._model.set_settings(config)

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._model.tokenizer

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

    @property
    def loaded_model(self) -> LoadedModel:
        """What it runs, for others that are to share it, such as ``AsyncLLMPipeline``."""
        return self._model

    @property
    def has_chat_template(self) -> bool:
        """Whether the model reads conversations; without a chat template it continues texts."""
        return self._model.reader.encoder.has_template

    def check_chat_template(self) -> None:
        """Render a short conversation with it, before anybody types one.

        Raises:
            ModelError: there is no chat template, or it is at fault.
        """
        with suppress(PromptError):  # some want another beginning
            self._model.reader.encoder.render([{"role": "user", "content": "Hello"}])

    def chat(self, system_message: str = "", prefix: CachedPrefix | None = None) -> Chat:
        """A conversation that keeps its compressed cache between turns.

        Args:
            system_message: before the first message; with a ``prefix`` its own.
            prefix: from :meth:`cache_prefix`: the first message is its text and then the question.
        """
        return Chat(self._model, system_message, prefix)

    def cache_prefix(
        self,
        text: str,
        system_message: str = "",
        progress: OnReading | None = None,
        thorough: bool = False,
    ) -> CachedPrefix:
        """Read ``text`` once, cut its cache to the budget, and keep it for any number of questions.

        The user's message of later calls is ``text`` and then their input, so end it as it should
        stand before a question. Its pages stay until it is closed or nobody holds it any more,
        whatever else needs room.

        Args:
            text: to be read.
            system_message: before the message that it begins.
            progress: told how much has been read, as it grows.
            thorough: read it twice, and keep what the second reading looked at: about twice the
                time, for what is read once and asked often.

        Raises:
            PromptError: the text is empty, or does not fit the pool.
            ConfigError: ``thorough``, and nothing is ever evicted.
            UnsupportedError: this engine keeps no prefixes.
        """
        model = self._model
        prefix = CachedPrefix(
            model.reader.encoder, model.close_session, text, system_message, thorough=thorough
        )
        prompt = Prompt(prefix.token_ids, prefix.session)
        try:
            (generation,) = model.run([prompt], reading_config(), progress=progress)
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
            path: by convention ``*.safetensors``. A document is replaced by another one; a chat
                only by itself, as long as the file is what the chat was loaded from or saved to.
            what: None is the conversation of ``start_chat``.
            overwrite: replace whatever file is there.

        Raises:
            SessionError: there is nothing to save, another file is there, it cannot be written, or
                another process holds it, such as a chat with ``--session``.
            UnsupportedError: this engine keeps no caches.
        """
        what = what or self._chat
        if what is None:
            raise SessionError(
                "there is no conversation to save", "Give a chat or prefix, or call start_chat."
            )
        with self._model.lock:
            return save(self._model.engine, Path(path), what, overwrite)

    def load_session(self, path: str | Path) -> Chat | CachedPrefix:
        """What :meth:`save_session` wrote, with its cache, as if it had never been away.

        A chat whose cache had been given up is read anew in its next turn. The budget may be
        another one than when it was saved: the cache is cut to it when it is due.

        Raises:
            SessionError: the file is damaged, of another model or precision, or does not fit the
                pool; nothing is loaded then.
            UnsupportedError: this engine keeps no caches.
        """
        with self._model.lock:
            return load(self._model, Path(path))

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its answer may have together; 0 where they are not bounded."""
        return self._model.context_length

    def describe(self) -> EngineDescription:
        """What was really compiled, and what the cache may hold."""
        return self._model.engine.describe()

    def get_metrics(self) -> dict[str, Any]:
        """What the engine holds now and has done since it was made, as JSON values.

        ``kv_cache``: bytes of the pool, in use, and by kind of owner; ``requests``: running,
        waiting, ended, preempted; ``tokens``: read, reused, generated, kept and evicted;
        ``ttft_seconds`` and ``tpot_seconds``: cumulative histograms as Prometheus has them; what an
        engine does not tell is None. ``last``: what the last call's sequences cost.
        """
        return self._model.metrics()
