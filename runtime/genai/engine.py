"""The genai engine: the same interface over openvino_genai's ContinuousBatchingPipeline.

It runs wherever openvino_genai does, GPUs included, with that library's own scheduler, sampler,
eviction and KVCrush.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino_genai import ContinuousBatchingPipeline, GenerationFinishReason, GenerationStatus

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ModelError, OVKVCrushError, PromptError, UnsupportedError
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.runtime.engine_metrics import EndedSequences, EngineMetrics
from ov_kvcrush.runtime.genai.eviction import GenaiEviction
from ov_kvcrush.runtime.genai.running import Running
from ov_kvcrush.runtime.genai.settings import (
    page_size_of,
    plugin_properties,
    require_fixed_pool,
    require_ir,
    scheduler_config,
    stored_precision,
)
from ov_kvcrush.runtime.generation.request import Generation, Request, new_request
from ov_kvcrush.runtime.generation.settings import refuse_unsupported
from ov_kvcrush.runtime.interface import DEFAULT_LIMITS, Engine, EngineLimits
from ov_kvcrush.runtime.pages.layout import page_bytes
from ov_kvcrush.runtime.plugin.core import require_device, require_properties
from ov_kvcrush.runtime.sequences.session import Session

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer

    from ov_kvcrush.runtime.session_files.session_file import StoredSession


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
        tokenizer: Tokenizer,
        device: str = "CPU",
        config: KVCacheConfig | None = None,
        properties: Mapping[str, Any] | None = None,
        limits: EngineLimits = DEFAULT_LIMITS,
        decode_precision: str | None = None,
    ) -> None:
        if decode_precision is not None:
            raise UnsupportedError(
                "the genai engine decodes in the precision that it reads prompts in",
                "Leave decode_precision out, or use the paged engine (engine='paged').",
            )
        self.config = config or KVCacheConfig()
        self._tokenizer = tokenizer
        self._device = require_device(device)
        self._page_size = page_size_of(self._device)
        self.eviction = (
            GenaiEviction.of(self.config, self._page_size) if self.config.evicts else None
        )
        require_ir(Path(folder))
        plan = KVPlan.load(folder)
        properties = plugin_properties(properties or {}, self.config, plan)
        require_properties(self._device, properties)
        self._precision = stored_precision(plan, properties)
        self._scheduler = scheduler_config(self.config, self.eviction, self._page_size, limits)
        require_fixed_pool(self._scheduler, self._precision)
        try:
            self._pipeline = ContinuousBatchingPipeline(
                folder, tokenizer, self._scheduler, self._device, **properties
            )
        except RuntimeError as error:
            raise ModelError(
                f"openvino_genai could not load the model: {_reason(error)}"
            ) from error
        self._running: dict[int, Running] = {}
        self._num_requests = 0
        self._ended = EndedSequences(num_preemptions=None)
        self._reported_page_bytes = 0
        self._planned_page_bytes = 0
        if plan is not None and self._precision is not None and self._device == "CPU":
            precisions = [self._precision] * len(plan.layers)
            self._planned_page_bytes = page_bytes(plan.layers, precisions)

    def add_request(
        self,
        prompt_ids: SequenceOf[int],
        config: GenerationConfig,
        session: Session | None = None,
        prefix: Session | None = None,
    ) -> Request:
        """Queue a prompt. See :class:`ov_kvcrush.runtime.interface.Engine`."""
        if prefix is not None or (session is not None and session.is_prefix):
            raise UnsupportedError(
                "the genai engine keeps no prefixes of its own", "Use the paged engine for them."
            )
        request = new_request(self._num_requests, prompt_ids, config, self._tokenizer, session)
        prompt = request.prompt_ids
        refuse_unsupported(config)
        pool = self._scheduler.num_kv_blocks
        if pool and self._pages_for(len(prompt)) > pool:
            raise _too_long(prompt)
        with _readable_errors():
            handle = self._pipeline.add_request(
                request.request_id, ov.Tensor(np.array([prompt], np.int64)), config
            )
        self._running[request.request_id] = Running(request, handle)
        self._num_requests += 1
        if session is not None:
            session.busy = True
        return request

    def step(self) -> list[Request]:
        """Advance everything by one inference; the requests that got tokens from it."""
        with _readable_errors():
            self._pipeline.step()
        self._learn_page_bytes()
        running = list(self._running.values())
        with ExitStack() as endings:
            for one in reversed(running):
                endings.callback(self._end_if_done, one)
            return [one.request for one in running if self._read(one)]

    def has_unfinished(self) -> bool:
        """Whether ``step`` has anything to do."""
        return bool(self._running)

    def cancel(self, request: Request) -> None:
        """Stop ``request`` where it is; its tokens so far stay."""
        one = self._running.get(request.request_id)
        if one is None:
            return
        try:
            with _readable_errors():
                one.handle.cancel()
        finally:
            self._leave(one, GenerationFinishReason.NONE)
        if not self._running:
            # Pages are given back in a step; with nothing left to compute it is a quick one.
            with _readable_errors():
                self._pipeline.step()

    def close_session(self, session: Session) -> None:
        """Nothing to free: no session holds a cache here."""

    def save_session(self, session: Session, path: Path, about: Mapping[str, Any]) -> None:
        """Refused: no session holds a cache here."""
        raise _no_sessions()

    def open_session(self, path: Path) -> AbstractContextManager[StoredSession]:
        """Refused: no session holds a cache here."""
        raise _no_sessions()

    def load_session(self, stored: StoredSession, session: Session) -> None:
        """Refused: no session holds a cache here."""
        raise _no_sessions()

    def describe(self) -> dict[str, Any]:
        """What openvino_genai was given, with the sizes its eviction really works with."""
        precision = self._precision
        return {
            "engine": "genai",
            "device": self._device,
            "key_cache_precision": precision.key if precision else None,
            "value_cache_precision": precision.value if precision else None,
            "kv_bytes_per_token": self._page_bytes / self._page_size,
            "page_size": self._page_size,
            "pool_tokens": self._scheduler.num_kv_blocks * self._page_size or None,
            "max_num_batched_tokens": self._scheduler.max_num_batched_tokens,
            "prefix_caching": self._scheduler.enable_prefix_caching,
            "keeps_chat_cache": False,
            "eviction": self.eviction and self.eviction.describe(),
            "kv_cache_config": self.config.to_dict(),
        }

    def metrics(self) -> EngineMetrics:
        """What was held in the last step, nothing where nothing runs, and what has been done."""
        pool, used = self._reported_pool()
        # openvino_genai counts an element of u4 as a byte; what the plan says is right.
        factor = self._page_bytes / self._reported_page_bytes if self._reported_page_bytes else 1.0
        in_use = used if self._running else 0.0
        used_bytes = round(in_use * factor)
        scheduled = self._pipeline.get_metrics().scheduled_requests
        num_running = min(scheduled, len(self._running))
        return EngineMetrics(
            used_bytes=used_bytes,
            pool_bytes=round(pool * factor),
            owners={"running": used_bytes},
            num_running=num_running,
            num_waiting=len(self._running) - num_running,
            num_prefix_hits=None,
            ended=copy.deepcopy(self._ended),
        )

    # ------------------------------------------------------------------ a request's tokens

    def _read(self, one: Running) -> bool:
        """Take what the pipeline has generated for ``one``; whether there was anything."""
        was_any = False
        while one.handle.can_read():
            outputs = one.handle.read()
            # One output for a single sequence each time; of several, all at the end.
            for generation, key in zip(one.request.generations, sorted(outputs), strict=False):
                was_any = True
                output = outputs[key]
                self._take(one, generation, output.generated_ids, output.generated_log_probs)
                if output.finish_reason != GenerationFinishReason.NONE:
                    generation.finish_reason = output.finish_reason
        return was_any

    def _take(
        self,
        one: Running,
        generation: Generation,
        tokens: SequenceOf[int],
        log_probs: SequenceOf[float],
    ) -> None:
        now = time.perf_counter()
        for _ in tokens:
            one.caches[generation.index].grow(self.eviction)
        generation.metrics.token_times += [now] * len(tokens)
        generation.log_probs += log_probs
        # The pipeline looks for stop tokens and strings itself, and holds back what may be one.
        generation.checker.tokens += tokens
        generation.checker.num_settled = len(generation.checker.tokens)

    def _end_if_done(self, one: Running) -> None:
        """Take leave of a request that the pipeline has dropped."""
        if one.handle.get_status() == GenerationStatus.RUNNING:
            return
        out_of_memory = one.handle.get_status() == GenerationStatus.IGNORED
        self._leave(
            one, GenerationFinishReason.LENGTH if out_of_memory else GenerationFinishReason.STOP
        )
        if out_of_memory and not any(g.tokens for g in one.request.generations):
            one.request.error = _too_long(one.request.prompt_ids)

    def _leave(self, one: Running, reason: GenerationFinishReason) -> None:
        """Forget ``one``; generations without a finish reason get ``reason``."""
        del self._running[one.request.request_id]
        if one.request.session is not None:
            one.request.session.busy = False
        # First of all: whoever waits for an end must get one, whatever fails below.
        for generation in one.request.generations:
            if generation.finish_reason is None:
                generation.finish_reason = reason
        for generation, cache in zip(one.request.generations, one.caches, strict=True):
            metrics = generation.metrics
            metrics.kv_tokens = cache.length
            metrics.num_evicted_tokens = cache.num_evicted
            metrics.kv_bytes = self._bytes_for(cache.length)
            metrics.kv_bytes_full = self._bytes_for(cache.length + cache.num_evicted)
            metrics.kv_bytes_peak = self._bytes_for(cache.peak)
            cancelled = generation.finish_reason == GenerationFinishReason.NONE
            self._ended.add(metrics, cancelled=cancelled)

    # ------------------------------------------------------------------ bytes

    @property
    def _page_bytes(self) -> int:
        """Bytes of a page in all layers; 0 where no plan tells and nothing has run yet."""
        return self._planned_page_bytes or self._reported_page_bytes

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self._page_size)

    def _bytes_for(self, tokens: int) -> int:
        return self._pages_for(tokens) * self._page_bytes

    def _reported_pool(self) -> tuple[int, float]:
        """Bytes of the pool and of its used part, as openvino_genai counts them."""
        metrics = self._pipeline.get_metrics()
        pool = metrics.kv_cache_size_in_bytes
        return pool, metrics.cache_usage / 100 * pool

    def _learn_page_bytes(self) -> None:
        """Find out from the first step, which only prefills, what a page takes."""
        if self._reported_page_bytes or not self._running:
            return
        left, pages = self._scheduler.max_num_batched_tokens, 0
        for one in self._running.values():
            count = min(left, len(one.request.prompt_ids))
            left -= count
            pages += self._pages_for(count)
        self._reported_page_bytes = round(self._reported_pool()[1] / pages)


def _too_long(prompt: SequenceOf[int]) -> PromptError:
    return PromptError(
        f"a prompt of {len(prompt)} tokens does not fit the KV cache: openvino_genai evicts "
        "nothing before the whole prompt is in it",
        "Shorten the prompt, or give a larger pool_size.",
    )


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Pass on what openvino_genai's C++ checks raise as their useful line."""
    try:
        yield
    except RuntimeError as error:
        raise OVKVCrushError(f"openvino_genai: {_reason(error)}") from error


def _reason(error: RuntimeError) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _no_sessions() -> UnsupportedError:
    return UnsupportedError(
        "the genai engine keeps no cache between requests that could be saved or loaded",
        "Use the paged engine (engine='paged').",
    )
