"""``AsyncLLMPipeline``: the pipeline for servers, many requests at once from any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import (
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from openvino_genai import ChatHistory, GenerationConfig, GenerationFinishReason, Tokenizer

from ov_kvcrush.errors import ConfigError, EngineClosedError, PromptError, last_line
from ov_kvcrush.pipeline.answer import Answer
from ov_kvcrush.pipeline.async_chat import AsyncChat
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix, reading_config
from ov_kvcrush.pipeline.call_times import CallTimes, timed_call
from ov_kvcrush.pipeline.chat import Chat
from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline
from ov_kvcrush.pipeline.loading import load, require_usable
from ov_kvcrush.pipeline.messages import texts_in
from ov_kvcrush.pipeline.prompt_encoder import require_text
from ov_kvcrush.pipeline.prompts import Prompt, require_token_ids
from ov_kvcrush.pipeline.saving import Saving, SessionSummary, hold
from ov_kvcrush.pipeline.special_tokens import SpecialTokens
from ov_kvcrush.runtime.engine_metrics import EngineMetrics
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.interface import Engine, EngineDescription
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.serving.async_engine import AsyncEngine
from ov_kvcrush.runtime.serving.engine_thread import EngineHealth

T = TypeVar("T")

# Characters from which templating and encoding a text takes longer than an event loop should wait:
# 6 ms for these on a Xeon's core.
_LONG_TEXT = 100_000


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
        owner: str = "",
        **kwargs: Any,
    ) -> Answer:
        """Queue a text, a chat history or token ids, and return at once; from any thread.

        A text goes through the chat template as in :meth:`LLMPipeline.generate`. A history's cache
        is kept, and found again when a longer history begins with it. Long texts are made into
        tokens in a thread of their own, and grammars built in two, so that an event loop goes on.

        Args:
            inputs: what to continue.
            generation_config: replaces the pipeline's, or a mapping that changes some of it.
            session: chat cache to go on from and to leave the answer in, for a history or ids.
            prefix: from :meth:`cache_prefix`: a text, or a history's first message, follows it.
            owner: whose it is, any text. What is kept of histories and prompts is found by requests
                of the same owner only: by how quick an answer is nobody learns what others asked.
            kwargs: fields of ``GenerationConfig``.

        Raises:
            ConfigError, PromptError, UnsupportedError: where they show at once; what only the
                engine sees, such as a prompt longer than the pool, and what is wrong with a long
                text or a grammar, is raised where the answer is awaited or accepted.
            EngineClosedError: after :meth:`close`, and while it drains.
        """
        config = self._model.settings(generation_config, kwargs)
        times = CallTimes()

        def prepare() -> Callable[[Engine], Request]:
            with timed_call(times):
                return self._adder(inputs, config, session, prefix, owner, times)

        if not self._model.engine.has_grammar(config):
            request = self._engine.submit_later(prepare, builds_grammar=True)
        elif _length(inputs) > _LONG_TEXT:
            request = self._engine.submit_later(prepare)
        else:
            request = self._engine.submit(prepare())
        return Answer(self._model, request, times)

    async def cache_prefix(
        self, text: str, system_message: str = "", owner: str = "", thorough: bool = False
    ) -> CachedPrefix:
        """As :meth:`LLMPipeline.cache_prefix`; other requests go on meanwhile.

        Found unasked by requests of the same ``owner`` only, as :meth:`generate` has it.
        """
        model = self._model
        prefix = await asyncio.to_thread(
            CachedPrefix,
            model.reader.encoder,
            model.close_session,
            text,
            system_message,
            thorough=thorough,
        )
        prefix.session.owner = owner
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
        owner: str,
        times: CallTimes,
    ) -> Callable[[Engine], Request]:
        model = self._model
        grammar = model.engine.build_grammar(config)
        if isinstance(inputs, ChatHistory):
            rendered = model.reader.encoder.render(inputs)

            def add(engine: Engine) -> Request:
                # Which sessions are free to go on from is known in the engine's thread only.
                with timed_call(times):
                    prompt = model.reader.read_history(rendered, config, session, prefix, owner)
                return engine.add_request(
                    prompt.ids, config, prompt.session, prompt.prefix, owner, grammar
                )

            return add
        if isinstance(inputs, str):
            prompt = model.reader.read_text(inputs, config, prefix)
        else:
            ids = require_token_ids(inputs)
            prompt = Prompt(ids, prefix=None if prefix is None else prefix.session)
        return lambda engine: engine.add_request(
            prompt.ids, config, session, prompt.prefix, owner, grammar
        )

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its answer may have together; 0 where they are not bounded."""
        return self._model.context_length

    def get_generation_config(self) -> GenerationConfig:
        """A copy of the settings that apply where a call gives none."""
        return self._model.settings()

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._model.tokenizer

    @property
    def special_tokens(self) -> SpecialTokens:
        """The tokens by which prompts are steered, and the only ways to spell them."""
        return self._model.reader.encoder.special_tokens

    def encode(
        self,
        inputs: str | ChatHistory,
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Token ids of a text as it is, or of a history through the chat template; from any thread.

        Args:
            inputs: what :meth:`generate` would read.
            add_special_tokens: that begin a text; those of a history are its template's.
            add_generation_prompt: of a history: what its answer begins behind.

        Raises:
            PromptError, ModelError: as :meth:`generate`.
        """
        encoder = self._model.reader.encoder
        if isinstance(inputs, ChatHistory):
            return encoder.encode(encoder.render(inputs, add_generation_prompt))
        require_text(inputs, "the prompt")
        rendered = encoder.plain(inputs)
        return encoder.encode(rendered) if add_special_tokens else encoder.encode_rest(rendered)

    def render(self, history: ChatHistory, add_generation_prompt: bool = True) -> str:
        """The text that the chat template makes of ``history``; from any thread.

        Raises:
            PromptError, ModelError: as :meth:`generate`.
        """
        return self._model.reader.encoder.render(history, add_generation_prompt).text

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ``token_ids``, special tokens too; from any thread.

        Raises:
            PromptError: one is not the model's.
        """
        tokens = require_token_ids(token_ids)
        try:
            return str(self._model.tokenizer.decode(tokens, skip_special_tokens=False))
        except RuntimeError as error:
            raise PromptError(f"token ids that cannot be read: {last_line(error)}") from error

    def describe(self) -> EngineDescription:
        """What was really compiled, and what the cache may hold."""
        return self._model.engine.describe()

    def chat(
        self, system_message: str = "", prefix: CachedPrefix | None = None, owner: str = ""
    ) -> AsyncChat:
        """A conversation that keeps its compressed cache between turns.

        Args:
            system_message: before the first message; with a ``prefix`` its own.
            prefix: from :meth:`cache_prefix`: the first message is its text and then the question.
            owner: whose it is, as :meth:`generate` has it.
        """
        chat = Chat(self._model, system_message, prefix)
        chat.session.owner = owner
        return self._over(chat)

    def _over(self, chat: Chat) -> AsyncChat:
        return AsyncChat(chat, self.generate, self._read_answer, self.close_session)

    def _read_answer(self, request: Request) -> tuple[str, GenerationFinishReason]:
        results = self._model.decoded(request.generations[:1])
        return results.texts[0], results.finish_reasons[0]

    async def hold_session(self, what: AsyncChat | CachedPrefix) -> Saving:
        """A chat or prefix as it is now, between two steps, for any thread to write.

            with await pipeline.hold_session(chat) as saving:
                await asyncio.to_thread(saving.write, path)

        Raises:
            SessionError: there is nothing to save, or it is still answering.
            UnsupportedError: the engine keeps no caches.
        """
        kept = what.chat if isinstance(what, AsyncChat) else what
        return await self.call(lambda engine: hold(engine, kept, self._free_forgotten))

    def _free_forgotten(self) -> None:
        # Any call has the engine free what nobody holds any more.
        with suppress(EngineClosedError):
            self._engine.call(lambda engine: None)

    async def save_session(
        self, path: str | Path, what: AsyncChat | CachedPrefix, *, overwrite: bool = False
    ) -> SessionSummary:
        """As :meth:`LLMPipeline.save_session`, with what it is between two steps.

        The file is written in a thread of its own: neither the engine nor the event loop waits.
        """
        with await self.hold_session(what) as saving:
            return await asyncio.to_thread(saving.write, Path(path), overwrite)

    def require_usable_session(self, path: str | Path) -> str:
        """Prove that :meth:`load_session` could go on from a file, given room; from any thread.

        Returns:
            ``chat`` or ``prefix``.

        Raises:
            SessionError: it is damaged, or of another model, precision or head budgets.
            UnsupportedError: the engine keeps no caches.
        """
        return require_usable(self._model.engine, Path(path))

    async def load_session(self, path: str | Path, owner: str = "") -> AsyncChat | CachedPrefix:
        """As :meth:`LLMPipeline.load_session`; then it is ``owner``'s.

        The file is proved in a thread of its own; the engine waits for the copying alone.
        """

        def at_rest(do: Callable[[Engine], None]) -> None:
            self._engine.call(do).result()

        what = await asyncio.to_thread(load, self._model, Path(path), owner, at_rest)
        if isinstance(what, Chat):
            return self._over(what)
        return what

    async def get_metrics(self) -> dict[str, Any]:
        """As :meth:`LLMPipeline.get_metrics`, between two steps; :meth:`snapshot` does not wait."""
        return await self.call(lambda _: self._model.metrics())

    def snapshot(self) -> EngineMetrics:
        """What the engine holds and has done, at most 0.2 seconds and a step ago; no waiting."""
        return self._engine.snapshot

    def health(self) -> EngineHealth:
        """Whether the engine can be relied on; no waiting."""
        return self._engine.health()

    async def drain(
        self, seconds: float, before_close: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Take no more requests, let those there are end, and close.

        Args:
            seconds: after so many those that still run are cancelled, with the text they have.
            before_close: what is still to be done with the engine at rest, such as saving chats.
        """
        try:
            await self._engine.drain(seconds)
            if before_close is not None:
                await before_close()
        finally:
            await asyncio.to_thread(self.close)

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


def _length(inputs: object) -> int:
    """Characters of a text or of a history's messages; 0 of what is neither."""
    if isinstance(inputs, str):
        return len(inputs)
    if not isinstance(inputs, ChatHistory):
        return 0
    return sum(map(len, texts_in(inputs.get_messages())))
