"""The paged engine: schedule, forward, sample, compress, once around for each step."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from openvino_genai import GenerationFinishReason

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.plan import KVPlan, fingerprint
from ov_kvcrush.precisions import describe_precisions
from ov_kvcrush.runtime.engine_metrics import EndedSequences, EngineMetrics
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets, buy_tokens
from ov_kvcrush.runtime.eviction.compressor import Compressor
from ov_kvcrush.runtime.generation.request import Generation, Request, new_request
from ov_kvcrush.runtime.interface import DEFAULT_LIMITS, Engine, EngineLimits
from ov_kvcrush.runtime.model.batch import build_batch, num_query_rows
from ov_kvcrush.runtime.paged.setup import make_cache, open_model
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.scheduling.admission import Admission
from ov_kvcrush.runtime.scheduling.intake import Intake
from ov_kvcrush.runtime.scheduling.scheduler import Schedule, Scheduler
from ov_kvcrush.runtime.sequences.prefixes import Prefixes
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.session_files.cache_identity import CacheIdentity
from ov_kvcrush.runtime.session_files.session_file import (
    StoredSession,
    load_into,
    open_session,
    write_session,
)

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer


class PagedEngine(Engine):
    """Runs requests over OpenVINO's paged KV cache and keeps each sequence within its budget.

    Built and failing as :class:`Engine` says; it runs on ``CPU``.
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
        self.config = config or KVCacheConfig()
        self.config.require_page_multiples(PAGE_SIZE)
        self._tokenizer = tokenizer
        self._limits = limits
        plan = KVPlan.load(folder)
        self.model = open_model(folder, device, self.config, properties, plan, decode_precision)
        self._identity = CacheIdentity(
            plan.fingerprint if plan else fingerprint(folder),
            self.model.vocab_size,
            self.model.layers,
            self.model.precisions,
        )
        shares = plan.layer_shares if plan else ()
        chunk = limits.max_num_batched_tokens
        self._budgets = CacheBudgets(self.config, self.model.layers, shares, chunk)
        if self.config.kv_budget_mb is not None:
            self.config = buy_tokens(self.config, self._budgets, self.model.layouts)
            self._budgets = CacheBudgets(self.config, self.model.layers, shares, chunk)
        self.cache = make_cache(
            self.model,
            self.config,
            plan,
            self._budgets.largest_share,
            limits=limits,
        )
        self._compressor = (
            Compressor(
                self.model.layers,
                self.model.scales,
                self.model.memories,
                self.config,
                self._budgets,
            )
            if self.config.evicts
            else None
        )
        window = self._compressor.window_size if self._compressor else 0
        self.prefixes = Prefixes(self.cache, window, self.config.prefix_caching)
        admission = Admission(self.cache, self._budgets)
        self._intake = Intake(
            self.model.layers,
            self.cache,
            self._budgets,
            self._compressor,
            self.prefixes,
            admission,
        )
        self._scheduler = Scheduler(
            self.cache,
            admission,
            self.prefixes,
            limits.max_num_batched_tokens,
            limits.max_num_seqs,
        )
        self._owners: dict[Sequence, tuple[Request, Generation]] = {}
        self._num_requests = 0
        self._ended = EndedSequences()

    def add_request(
        self,
        prompt_ids: SequenceOf[int],
        config: GenerationConfig,
        session: Session | None = None,
        prefix: Session | None = None,
    ) -> Request:
        """Queue a prompt. See :class:`ov_kvcrush.runtime.interface.Engine`."""
        request = new_request(self._num_requests, prompt_ids, config, self._tokenizer, session)
        if session is not None and config.num_return_sequences > 1:
            raise ConfigError(
                "a chat continues one answer, so num_return_sequences must be 1",
                "Generate alternatives without a chat session.",
            )
        lead = request.generations[0]
        sequence = self._intake.begin(request.prompt_ids, session, prefix, lead.metrics)
        self._num_requests += 1
        if session is not None:
            session.busy = True
        self._own(sequence, request, lead)
        self._scheduler.add(sequence)
        return request

    def step(self) -> list[Request]:
        """Run one inference for whoever is next; the requests that got tokens from it."""
        schedule = self._scheduler.schedule()
        self._account(schedule)
        if not schedule.chunks:
            return self._end_exhausted(schedule)
        logits, queries = self.model.forward(build_batch(schedule.chunks))
        self._take_in(schedule.chunks, queries)
        advanced = self._sample(schedule.chunks, logits)
        self._compress(schedule.chunks)
        self._settle(advanced)
        return advanced

    def has_unfinished(self) -> bool:
        """Whether ``step`` has anything to do."""
        return self._scheduler.has_unfinished()

    def cancel(self, request: Request) -> None:
        """Stop ``request`` where it is; its tokens so far stay."""
        for generation in request.generations:
            if generation.finish_reason is None:
                generation.finish_reason = GenerationFinishReason.NONE
        self._settle([request])

    def preempt(self, sequence: Sequence) -> None:
        """Let a running ``sequence`` give up its cache and compute it again later."""
        self._scheduler.preempt(sequence)
        self._owners[sequence][1].metrics.num_preemptions += 1

    def close_session(self, session: Session) -> None:
        """Free what ``session`` holds."""
        self.cache.drop(session)

    def save_session(self, session: Session, path: Path, about: Mapping[str, Any]) -> None:
        """Write what ``session`` has cached, and ``about``, to ``path``."""
        settings = self.config.to_dict()
        memories = self.model.memories
        write_session(path, about, session.sequence, memories, self._identity, settings)

    def open_session(self, path: Path) -> AbstractContextManager[StoredSession]:
        """The session in the file at ``path``, proved to be one of this model."""
        return open_session(path, self.model.memories, self._identity)

    def load_session(self, stored: StoredSession, session: Session) -> None:
        """Let ``session``, which has nothing cached, hold what was ``stored``."""
        if stored.state is not None:
            sequence = self._intake.new_sequence(stored.token_ids)
            load_into(sequence, stored, self.cache)
            self.cache.park(session, sequence)

    def describe(self) -> dict[str, Any]:
        """What was really compiled and how much it holds."""
        model = self.model
        return {
            "engine": "paged",
            "device": "CPU",
            "num_layers": len(model.layers),
            "inference_precision": model.inference_precision,
            "decode_precision": model.decode_precision,
            **describe_precisions(model.precisions),
            "kv_bytes_per_token": model.kv_bytes_per_token,
            "layer_shares": self._budgets.describe() if self.config.evicts else None,
            "page_size": PAGE_SIZE,
            "pool_tokens": self.cache.max_tokens,
            "pool_bytes": self.cache.max_bytes,
            "max_num_batched_tokens": self._limits.max_num_batched_tokens,
            "kv_cache_config": self.config.to_dict(),
        }

    def metrics(self) -> EngineMetrics:
        """What is held now and what has been done."""
        return EngineMetrics(
            used_bytes=self.cache.used_bytes,
            pool_bytes=self.cache.max_bytes,
            owners={
                "running": sum(map(self.cache.bytes_of, self._scheduler.running)),
                "waiting": sum(map(self.cache.bytes_of, self._scheduler.waiting)),
                "chats": self.cache.parked_bytes(prefixes=False),
                "prefixes": self.cache.parked_bytes(prefixes=True),
            },
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            num_prefix_hits=self.prefixes.num_hits,
            ended=copy.deepcopy(self._ended),
        )

    def check_integrity(self) -> None:
        """Prove that every page is free or owned once; RuntimeError otherwise."""
        self.cache.check_integrity([*self._scheduler.running, *self._scheduler.waiting])

    # ------------------------------------------------------------------ the parts of a step

    def _own(self, sequence: Sequence, request: Request, generation: Generation) -> None:
        self._owners[sequence] = (request, generation)
        generation.sequence = sequence

    def _account(self, schedule: Schedule) -> None:
        for sequence in schedule.preempted:
            self._owners[sequence][1].metrics.num_preemptions += 1
        for chunk in schedule.chunks:
            metrics = self._owners[chunk.sequence][1].metrics
            metrics.num_reused_tokens = chunk.sequence.num_reused
            metrics.kv_bytes_peak = max(metrics.kv_bytes_peak, self.cache.bytes_of(chunk.sequence))

    def _take_in(self, chunks: SequenceOf[Chunk], queries: SequenceOf[NDArray[np.float32]]) -> None:
        row = 0
        for chunk in chunks:
            chunk.sequence.append(chunk.count)
            count = num_query_rows(chunk)
            newest = [layer[row : row + count] for layer in queries]
            row += count
            if self._compressor is not None and chunk.sequence.accumulates:
                self._compressor.accumulate(chunk.sequence, newest)
            if chunk.sequence.window is not None:
                chunk.sequence.window.push(newest)

    def _sample(self, chunks: SequenceOf[Chunk], logits: NDArray[np.float32]) -> list[Request]:
        advanced: dict[int, Request] = {}
        row = 0
        for chunk in chunks:
            if chunk.sequence.num_uncached:
                continue
            request, generation = self._owners[chunk.sequence]
            # The other return sequences begin where the first one's prompt ends.
            starting = [
                g for g in request.generations if g.sequence is None and g.finish_reason is None
            ]
            for one in [generation, *starting]:
                self._add_token(one, logits[row])
            row += 1
            advanced[request.request_id] = request
        return list(advanced.values())

    def _add_token(self, generation: Generation, logits: NDArray[np.float32]) -> None:
        sampled = generation.sampler.sample(logits)
        generation.metrics.token_times.append(time.perf_counter())
        generation.log_probs.append(sampled.log_prob)
        if generation.sequence is not None:
            generation.sequence.tokens.append(sampled.token)
        generation.finish_reason = generation.checker.push(sampled.token)

    def _compress(self, chunks: SequenceOf[Chunk]) -> None:
        for chunk in chunks:
            sequence = chunk.sequence
            # Before anything is evicted, and at a prompt's end.
            if chunk.count > 1 and (sequence.is_cut_due or sequence.num_uncached <= 1):
                self.prefixes.note_read(sequence)
            if self._compressor is None:
                continue
            begun = time.perf_counter()
            metrics = self._owners[sequence][1].metrics
            if not self._compressor.compress(sequence, self.cache):
                self.preempt(sequence)
            metrics.compression_time += time.perf_counter() - begun
            self.prefixes.note_cut(sequence)

    def _settle(self, requests: SequenceOf[Request]) -> None:
        """Start the sequences that follow a prompt, and let finished ones go."""
        for request in requests:
            for generation in request.generations:
                if generation.sequence is None and generation.finish_reason is None:
                    self._start_from(request.generations[0], generation, request)
            for generation in request.generations:
                if generation.finish_reason is not None and generation.sequence is not None:
                    self._finish(request, generation)

    def _start_from(self, lead: Generation, generation: Generation, request: Request) -> None:
        sequence = self._intake.new_sequence([*request.prompt_ids, *generation.tokens])
        self._own(sequence, request, generation)
        if lead.sequence is not None and lead.sequence.num_cached:
            self.cache.fork(lead.sequence, sequence)
            self._scheduler.join(sequence)
        else:
            self._scheduler.add(sequence)
            self._budgets.plan_prompt(sequence, len(request.prompt_ids))

    def _finish(self, request: Request, generation: Generation) -> None:
        sequence = generation.sequence
        if sequence not in self._owners or sequence is None:
            return
        metrics = generation.metrics
        self.cache.trim(sequence)
        metrics.kv_tokens = sequence.num_kept
        metrics.kv_bytes = self.cache.bytes_of(sequence)
        metrics.kv_bytes_full = self.cache.bytes_for(sequence.num_cached)
        metrics.num_evicted_tokens = sequence.num_cached - sequence.num_kept
        self._ended.add(generation)
        del self._owners[sequence]
        self._scheduler.remove(sequence)
        if request.session is None:
            self.prefixes.note_read(sequence)
            self.cache.release(sequence)
        else:
            request.session.busy = False
            if request.session.is_prefix:
                del sequence.tokens[sequence.num_cached :]
            self.cache.park(request.session, sequence)

    def _end_exhausted(self, schedule: Schedule) -> list[Request]:
        if schedule.exhausted is None:
            return []
        request, generation = self._owners[schedule.exhausted]
        generation.finish_reason = GenerationFinishReason.LENGTH
        if not generation.tokens:
            request.error = self._intake.too_long(schedule.exhausted)
        self._settle([request])
        return [request]
