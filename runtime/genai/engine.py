"""The genai engine: the same interface over openvino_genai's ContinuousBatchingPipeline.

It runs wherever openvino_genai does, GPUs included, with that library's own scheduler, sampler,
eviction and KVCrush.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import time
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino_genai import ContinuousBatchingPipeline, GenerationFinishReason

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import OVKVCrushError, UnsupportedError, last_line
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.precisions import AUTO, SAME
from ov_kvcrush.runtime.engine_metrics import EndedRequests, EndedSequences, EngineMetrics
from ov_kvcrush.runtime.genai.eviction import (
    GenaiEviction,
    in_place_of_defaults,
    tell_what_gave_way,
)
from ov_kvcrush.runtime.genai.page_bytes import PageBytes
from ov_kvcrush.runtime.genai.running import Running, too_long
from ov_kvcrush.runtime.genai.settings import (
    config_with_drafts,
    page_size_of,
    plugin_properties,
    require_fixed_pool,
    require_known_structure,
    scheduler_config,
    stored_precision,
)
from ov_kvcrush.runtime.generation.request import PromptLimits, Request, new_request
from ov_kvcrush.runtime.generation.settings import (
    refuse_unsupported,
    resolve_generation_config,
)
from ov_kvcrush.runtime.interface import DEFAULT_LIMITS, Engine, EngineDescription, EngineLimits
from ov_kvcrush.runtime.model.vocabulary import num_token_ids
from ov_kvcrush.runtime.pages.layout import page_bytes
from ov_kvcrush.runtime.plugin.core import (
    not_compiled,
    require_device,
    require_properties,
)
from ov_kvcrush.runtime.plugin.given_properties import read_properties
from ov_kvcrush.runtime.plugin.ir_file import read_ir
from ov_kvcrush.runtime.sequences.session import Session

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer

    from ov_kvcrush.runtime.grammar.grammar_builder import BuiltGrammar
    from ov_kvcrush.runtime.plugin.spare_thread import SpareThread
    from ov_kvcrush.runtime.session_files.held_session import HeldSession
    from ov_kvcrush.runtime.session_files.stored_session import StoredSession


# What a check begins with: when it failed, and in which file of the sources.
_PLACE_IN_SOURCE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


@dataclass(frozen=True)
class GenaiDescription(EngineDescription):
    """What only this engine knows.

    Attributes:
        prefix_caching: whether openvino_genai shares what prompts begin with.
        keeps_chat_cache: whether a chat's cache stays between its turns.
        eviction: the sizes it works with, and what it has no setting for; None where nothing is
            evicted.
        prompt_lookup: tokens that are guessed in a step; 0 for none.
    """

    prefix_caching: bool
    keeps_chat_cache: bool
    eviction: dict[str, Any] | None
    prompt_lookup: int


class GenaiEngine(Engine):
    """Runs requests through openvino_genai's continuous batching.

    Differences to know: eviction is openvino_genai's (whole pages, the same for all heads, never
    during prefill) and only what it can obey is accepted; a chat's cache is not kept, every request
    prefills its whole prompt, quickened by prefix caching where nothing is evicted; of several
    return sequences all tokens come at the end.

    Built and failing as :class:`Engine` says. ``limits.pool_bytes`` counts in whole GiB, and with 0
    the pool grows as tokens come.
    """

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
    ) -> None:
        if decode_precision not in (AUTO, SAME):
            raise UnsupportedError(
                "the genai engine decodes in the precision that it reads prompts in",
                "Leave decode_precision out, or use the paged engine (engine='paged').",
            )
        self._drafts = limits.prompt_lookup
        if self._drafts and config is not None and config.evicts:
            raise UnsupportedError(
                "openvino_genai's prompt lookup gives other text where its cache is cut",
                "Leave prompt_lookup out, keep everything, or use the paged engine "
                "(engine='paged').",
            )
        if spare is not None:
            spare.begin()  # it compiles with the tokenizer
        if isinstance(tokenizer, Future):
            tokenizer = tokenizer.result()
        self._tokenizer = tokenizer
        self._device = require_device(device)
        self.config, properties = read_properties(
            self._device, properties or {}, config or KVCacheConfig()
        )
        self._page_size = page_size_of(self._device)
        self.eviction = None
        if self.config.evicts:
            asked, self.config = self.config, in_place_of_defaults(self.config, self._page_size)
            self.eviction = GenaiEviction.of(self.config, self._page_size)
            tell_what_gave_way(asked, self.config)
        model = read_ir(Path(folder))
        self._prompt_limits = PromptLimits(num_token_ids(model), limits.context_length)
        plan = KVPlan.load(folder)
        properties = plugin_properties(properties, self.config, plan)
        require_properties(self._device, properties)
        self._precision = stored_precision(plan, properties)
        self._scheduler = scheduler_config(self.config, self.eviction, self._page_size, limits)
        require_fixed_pool(self._scheduler, self._precision)
        if self._drafts:
            properties = {**properties, "prompt_lookup": True}
        try:
            self._pipeline = ContinuousBatchingPipeline(
                folder, tokenizer, self._scheduler, self._device, **properties
            )
        except RuntimeError as error:
            raise not_compiled(
                error,
                "openvino_genai could not load the model",
                "If its files are damaged, export it again; else try the paged engine "
                "(engine='paged').",
            ) from error
        self._running: dict[int, Running] = {}
        self._num_requests = 0
        self._ended = EndedSequences(
            num_drafted_tokens=None, num_accepted_tokens=None, num_preemptions=None
        )
        self._ended_requests = EndedRequests()
        planned = 0
        if plan is not None and self._precision is not None and self._device == "CPU":
            precisions = [self._precision] * len(plan.layers)
            planned = page_bytes(plan.layers, precisions)
        self._sizes = PageBytes(self._pipeline, self._page_size, planned)

    def add_request(
        self,
        prompt_ids: SequenceOf[int],
        config: GenerationConfig,
        session: Session | None = None,
        prefix: Session | None = None,
        owner: str = "",
        grammar: BuiltGrammar | None = None,
    ) -> Request:
        """Queue a prompt. See :class:`ov_kvcrush.runtime.interface.Engine`."""
        if prefix is not None or (session is not None and session.is_prefix):
            raise UnsupportedError(
                "the genai engine keeps no prefixes of its own", "Use the paged engine for them."
            )
        request = new_request(
            self._num_requests, prompt_ids, config, self._tokenizer, session, self._prompt_limits
        )
        prompt = request.prompt_ids
        refuse_unsupported(config)
        self.build_grammar(config)
        own = config_with_drafts(request.config, self._drafts)
        pool = self._scheduler.num_kv_blocks
        if pool and self._sizes.pages_for(len(prompt)) > pool:
            raise too_long(prompt)
        with _readable_errors():
            handle = self._pipeline.add_request(
                request.request_id,
                ov.Tensor(np.array([prompt], np.int64)),
                _without_cutting(own),
            )
        self._running[request.request_id] = Running(request, handle, self.eviction)
        self._num_requests += 1
        if session is not None:
            session.busy = True
        return request

    def has_grammar(self, config: GenerationConfig) -> bool:
        """Whether ``config`` asks for none."""
        return config.structured_output_config is None

    def build_grammar(self, config: GenerationConfig) -> None:
        """Looks whether it can be built, which openvino_genai does in a step."""
        require_known_structure(config)

    def step(self) -> list[Request]:
        """Advance everything by one inference; the requests that got tokens from it."""
        begun = time.perf_counter()
        with _readable_errors():
            self._pipeline.step()
        running = list(self._running.values())
        for one in running:
            # The pipeline does not tell how much of its step was inference.
            one.note_inference(begun)
        lengths = (len(one.request.prompt_ids) for one in running)
        self._sizes.learn(lengths, self._scheduler.max_num_batched_tokens)
        with ExitStack() as endings:
            for one in reversed(running):
                endings.callback(self._end_if_done, one)
            return [one.request for one in running if one.read()]

    def has_unfinished(self) -> bool:
        """Whether ``step`` has anything to do."""
        return bool(self._running)

    def cancel(
        self,
        request: Request,
        reason: GenerationFinishReason = GenerationFinishReason.NONE,
    ) -> None:
        """Stop ``request`` where it is; its tokens so far stay."""
        one = self._running.pop(request.request_id, None)
        if one is None:
            return
        one.end_with(reason)
        with _readable_errors():
            one.handle.cancel()
        one.sum_up(self._sizes, self._ended)
        self._ended_requests.add(request)
        if not self._running:
            # Pages are given back in a step; with nothing left to compute it is a quick one.
            with _readable_errors():
                self._pipeline.step()

    def close_session(self, session: Session) -> None:
        """Nothing to free: no session holds a cache here."""

    def hold_session(self, session: Session) -> HeldSession:
        """Refused: no session holds a cache here."""
        raise _no_sessions()

    def save_session(self, session: Session, path: Path, about: Mapping[str, Any]) -> None:
        """Refused: no session holds a cache here."""
        raise _no_sessions()

    def open_session(self, path: Path) -> AbstractContextManager[StoredSession]:
        """Refused: no session holds a cache here."""
        raise _no_sessions()

    def load_session(self, stored: StoredSession, session: Session) -> None:
        """Refused: no session holds a cache here."""
        raise _no_sessions()

    def describe(self) -> GenaiDescription:
        """What openvino_genai was given, with the sizes its eviction really works with."""
        precision, config = self._precision, self.config
        if self.eviction is not None:  # as soon as another page is full
            config = dataclasses.replace(config, decode_slack=self._page_size)
        return GenaiDescription(
            engine="genai",
            device=self._device,
            key_cache_precision=precision.key if precision else None,
            value_cache_precision=precision.value if precision else None,
            kv_bytes_per_token=self._sizes.per_token,
            page_size=self._page_size,
            pool_tokens=self._scheduler.num_kv_blocks * self._page_size or None,
            max_num_batched_tokens=self._scheduler.max_num_batched_tokens,
            context_length=self._prompt_limits.context_length,
            kv_cache_config=config,
            prefix_caching=self._scheduler.enable_prefix_caching,
            keeps_chat_cache=False,
            eviction=None if self.eviction is None else self.eviction.describe(),
            prompt_lookup=self._drafts,
        )

    def metrics(self) -> EngineMetrics:
        """What was held in the last step, nothing where nothing runs, and what has been done."""
        used_bytes = self._sizes.used if self._running else 0
        scheduled = self._pipeline.get_metrics().scheduled_requests
        num_running = min(scheduled, len(self._running))
        return EngineMetrics(
            used_bytes=used_bytes,
            pool_bytes=self._sizes.pool,
            owners={"running": used_bytes},
            num_running=num_running,
            num_waiting=len(self._running) - num_running,
            num_requests=len(self._running),
            num_prefix_hits=None,
            ended=copy.deepcopy(self._ended),
            ended_requests=copy.copy(self._ended_requests),
        )

    def _end_if_done(self, one: Running) -> None:
        """Take leave of a request that the pipeline has dropped, or that is to be dropped."""
        if one.has_ended:
            del self._running[one.request.request_id]
            one.end()
            one.sum_up(self._sizes, self._ended)
            self._ended_requests.add(one.request)
        elif one.request.finished:
            self.cancel(one.request)


def _without_cutting(config: GenerationConfig) -> GenerationConfig:
    """``config`` for the pipeline, which is not to look for stop strings where ours does.

    It misses some, and cuts whole tokens and white space. Only of several return sequences it has
    to look, for it gives all of their tokens at the end; ours cuts the text of what it leaves.
    """
    if not config.stop_strings:
        return config
    changes: dict[str, object] = {"stop_strings": ()}
    if config.num_return_sequences > 1:
        changes = {"include_stop_str_in_output": True}
    return resolve_generation_config(config, config, changes)


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Pass on what openvino_genai's C++ checks raise as their useful line."""
    try:
        yield
    except RuntimeError as error:
        line = _PLACE_IN_SOURCE.sub("", last_line(error))
        raise OVKVCrushError(f"openvino_genai: {line}") from error


def _no_sessions() -> UnsupportedError:
    return UnsupportedError(
        "the genai engine keeps no cache between requests that could be saved or loaded",
        "Use the paged engine (engine='paged').",
    )
