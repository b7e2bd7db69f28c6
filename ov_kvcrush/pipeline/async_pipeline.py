"""``AsyncLLMPipeline``: the pipeline for servers, many requests at once from any event loop."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from openvino_genai import ChatHistory, GenerationConfig, TextStreamer, Tokenizer

from ov_kvcrush.errors import ConfigError, PromptError
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix, reading_config
from ov_kvcrush.pipeline.call_times import CallTimes, timed, timed_call
from ov_kvcrush.pipeline.chat import Chat
from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline
from ov_kvcrush.pipeline.loaded_model import LoadedModel
from ov_kvcrush.pipeline.prompts import Prompt
from ov_kvcrush.pipeline.results import DecodedResults
from ov_kvcrush.pipeline.saving import SessionSummary, load, save
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.interface import Engine, EngineDescription
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.serving.async_engine import AsyncEngine, AsyncRequest

T = TypeVar("T")


class AsyncLLMPipeline:
    """Answers many requests at once; its engine runs in a thread of its own.

        async with AsyncLLMPipeline("model", kv_cache_config=...) as pipeline:
            answer = pipeline.generate("Tell me of KV caches.", max_new_tokens=100)
            async for text in answer:
                print(text, end="")
            metrics = (await answer).metrics[0]

    Args:
        models_path: an exported model's folder, and behind it what :class:`LLMPipeline` takes; or
            an ``LLMPipeline``, whose own calls then wait for a pause between steps.

    Raises:
        ModelError, ConfigError, DeviceError, UnsupportedError: at construction, as they say.
    """

    def __init__(self, models_path: str | Path | LLMPipeline, *args: Any, **kwargs: Any) -> None:
        if isinstance(models_path, LLMPipeline):
            if args or kwargs:
                raise ConfigError(
                    "a pipeline that already exists takes no more settings",
                    "Give them to LLMPipeline, or give the model's folder.",
                )
            pipeline = models_path
        else:
            pipeline = LLMPipeline(models_path, *args, **kwargs)
        self._model = pipeline.loaded_model
        self._engine = AsyncEngine(self._model.engine, self._model.lock)

    def generate(
        self,
        inputs: str | ChatHistory | Sequence[int],
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        *,
        session: Session | None = None,
        prefix: CachedPrefix | None = None,
        **kwargs: Any,
    ) -> Answer:
        """Queue a text, a chat history or token ids, and return at once; from any thread.

        A text goes through the chat template as in :meth:`LLMPipeline.generate`. A history's cache
        is kept, and found again when a longer history begins with it.

        Args:
            inputs: what to continue.
            generation_config: replaces the pipeline's, or a mapping that changes some of it.
            session: chat cache to go on from and to leave the answer in, for a history or ids.
            prefix: from :meth:`cache_prefix`: a text, or a history's first message, follows it.
            kwargs: fields of ``GenerationConfig``.

        Raises:
            ConfigError, PromptError, UnsupportedError: where they show at once; what only the
                engine sees, such as a prompt longer than the pool, is raised by the answer.
            EngineClosedError: after :meth:`close`.
        """
        config = self._model.settings(generation_config, kwargs)
        with timed_call() as times:
            add = self._adder(inputs, config, session, prefix, times)
        return Answer(self._model, self._engine.submit(add), times)

    async def cache_prefix(self, text: str, system_message: str = "") -> CachedPrefix:
        """As :meth:`LLMPipeline.cache_prefix`; other requests go on meanwhile."""
        model = self._model
        prefix = CachedPrefix(model.tokenizer, model.close_session, text, system_message)
        request = self._engine.submit(
            lambda engine: engine.add_request(prefix.token_ids, reading_config(), prefix.session)
        )
        try:
            read = await request.result()
        except BaseException:
            await asyncio.shield(self.close_session(prefix.session))
            raise
        prefix.metrics = read.generations[0].metrics
        return prefix

    def _adder(
        self,
        inputs: Any,
        config: GenerationConfig,
        session: Session | None,
        prefix: CachedPrefix | None,
        times: CallTimes,
    ) -> Callable[[Engine], Request]:
        model = self._model
        if isinstance(inputs, ChatHistory):
            with timed("chat_template"):
                text = model.tokenizer.apply_chat_template(inputs, add_generation_prompt=True)

            def add(engine: Engine) -> Request:
                # Which sessions are free to go on from is known in the engine's thread only.
                with timed_call(times):
                    prompt = model.reader.read_history(text, config, session, prefix)
                return engine.add_request(prompt.ids, config, prompt.session, prompt.prefix)

            return add
        if isinstance(inputs, str):
            prompt = model.reader.read_text(inputs, config, prefix)
        elif isinstance(inputs, Sequence) and all(isinstance(one, int) for one in inputs):
            prompt = Prompt(list(inputs), prefix=None if prefix is None else prefix.session)
        else:
            raise PromptError(
                "inputs is neither a text, a ChatHistory nor token ids",
                "Give a str, a ChatHistory or a list of int; each prompt is a call of its own.",
            )
        return lambda engine: engine.add_request(prompt.ids, config, session, prompt.prefix)

    def get_generation_config(self) -> GenerationConfig:
        """A copy of the settings that apply where a call gives none."""
        return self._model.settings()

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._model.tokenizer

    def describe(self) -> EngineDescription:
        """What was really compiled, and what the cache may hold."""
        return self._model.engine.describe()

    async def save_session(
        self, path: str | Path, what: Chat | CachedPrefix, *, overwrite: bool = False
    ) -> SessionSummary:
        """As :meth:`LLMPipeline.save_session`, between two steps."""
        return await self.call(lambda engine: save(engine, Path(path), what, overwrite))

    async def load_session(self, path: str | Path) -> Chat | CachedPrefix:
        """As :meth:`LLMPipeline.load_session`, between two steps."""
        return await self.call(lambda _: load(self._model, Path(path)))

    async def get_metrics(self) -> dict[str, Any]:
        """As :meth:`LLMPipeline.get_metrics`, between two steps."""
        return await self.call(lambda _: self._model.metrics())

    async def close_session(self, session: Session) -> None:
        """Free what ``session`` holds."""
        await self.call(lambda engine: engine.close_session(session))

    async def call(self, function: Callable[[Engine], T]) -> T:
        """What ``function`` makes of the engine at rest, between two steps."""
        return await asyncio.wrap_future(self._engine.call(function))

    def close(self) -> None:
        """End all requests with EngineClosedError and the engine's thread; waits for its step."""
        self._engine.close()

    async def __aenter__(self) -> AsyncLLMPipeline:
        """This pipeline; it is closed at the end of the block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close, without holding up the event loop."""
        await asyncio.to_thread(self.close)


class Answer:
    """An answer on its way. Iterate over it, once, for pieces of text; await it for the results.

    An iteration that is broken off, a task cancelled while it awaits either, and an answer that
    nobody holds any more end the request.
    """

    def __init__(self, model: LoadedModel, request: AsyncRequest, times: CallTimes) -> None:
        self._model = model
        self._request = request
        self._times = times

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._request.done

    def cancel(self) -> None:
        """End it within a step, with the text it has; from any thread."""
        self._request.cancel()

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Text as it comes: whole characters, none empty, together the answer.

        Raises:
            ConfigError: it has several sequences, or is read elsewhere.
            Exception: what ended the request.
        """
        ready: list[str] = []
        streamer = TextStreamer(self._model.tokenizer, ready.append)
        tokens = self._request.tokens()
        try:
            async for new in tokens:
                streamer.write(new)
                if text := _taken(ready):
                    yield text
        finally:
            await tokens.aclose()
        streamer.end()
        if text := _taken(ready):
            yield text

    def __aiter__(self) -> AsyncIterator[str]:
        """The same as :meth:`pieces`."""
        return self.pieces()

    async def result(self) -> DecodedResults:
        """Texts, finish reasons and metrics; of a cancelled answer, as far as it went.

        Raises:
            Exception: what ended the request.
        """
        generations = self._model.ranked([await self._request.result()])
        with timed_call(dataclasses.replace(self._times, detokenization=[])):
            return self._model.decoded(generations)

    def __await__(self) -> Generator[Any, None, DecodedResults]:
        """The same as :meth:`result`."""
        return self.result().__await__()


def _taken(ready: list[str]) -> str:
    text = "".join(ready)
    ready.clear()
    return text
