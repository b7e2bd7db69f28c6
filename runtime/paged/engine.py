"""The paged engine: schedule, forward, sample, compress, once around for each step."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvino_genai import GenerationFinishReason

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.precisions import SAME, describe_precisions
from ov_kvcrush.runtime.engine_metrics import EngineMetrics
from ov_kvcrush.runtime.generation.drafter import require_drafts
from ov_kvcrush.runtime.generation.request import PromptLimits, Request, new_request
from ov_kvcrush.runtime.grammar.grammar_builder import BuiltGrammar, GrammarBuilder
from ov_kvcrush.runtime.grammar.structured_output import grammar_of
from ov_kvcrush.runtime.interface import DEFAULT_LIMITS, Engine, EngineDescription, EngineLimits
from ov_kvcrush.runtime.model.batch import Batch, build_batch
from ov_kvcrush.runtime.paged.drafting import Drafting
from ov_kvcrush.runtime.paged.running import RunningRequests
from ov_kvcrush.runtime.paged.second_reading import SecondReading
from ov_kvcrush.runtime.paged.setup import set_up
from ov_kvcrush.runtime.paged.storing import store
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.session_files.held_session import CacheOrigin, HeldSession
from ov_kvcrush.runtime.session_files.session_file import open_session
from ov_kvcrush.runtime.session_files.stored_session import StoredSession, load_into

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer

    from ov_kvcrush.runtime.plugin.spare_thread import SpareThread


@dataclass(frozen=True)
class PagedDescription(EngineDescription):
    """What only this engine knows.

    Attributes:
        num_layers: of the model.
        inference_precision: type that prompts are read in.
        decode_precision: type that decoding computes in.
        decode_reason: why.
        layer_precisions: of keys and values by ranges of layers.
        layer_shares: of the layers in the budget, or by layer of its KV heads, 1 on average over
            heads, or that they are measured at each cut; None where nothing is evicted.
        pool_bytes: of the page pool.
        prompt_lookup: tokens that are guessed in a step at most; 0 for none.
    """

    num_layers: int
    inference_precision: str
    decode_precision: str
    decode_reason: str
    layer_precisions: dict[str, str]
    layer_shares: list[float] | list[list[float]] | str | None
    pool_bytes: int
    prompt_lookup: int

    @property
    def computing(self) -> str:
        """What prompts are read in, what decoding computes in, and why."""
        prompts, decoding = self.inference_precision, self.decode_precision
        if prompts == decoding:
            return f"prompts and decoding in {prompts}: {self.decode_reason}"
        return f"prompts in {prompts}, decoding in {decoding}: {self.decode_reason}"


class PagedEngine(Engine):
    """Runs requests over OpenVINO's paged KV cache and keeps each sequence within its budget.

    Built and failing as :class:`Engine` says; it runs on ``CPU``.

    Attributes:
        config: what the cache may hold, in tokens.
        model: compiled, with its cache.
        cache: pages of the sequences.
        eviction: keeps them within the budget.
        prefixes: what is cached of prompts' beginnings.
        scheduler: chooses each step.
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
        config = config or KVCacheConfig()
        parts = set_up(folder, device, config, properties, limits, decode_precision, spare=spare)
        if isinstance(tokenizer, Future):
            tokenizer = tokenizer.result()
        self.config = parts.config
        self.model = parts.model
        self.cache = parts.cache
        self.eviction = parts.eviction
        self.prefixes = parts.prefixes
        self.scheduler = parts.scheduler
        self._tokenizer = tokenizer
        self._grammars = GrammarBuilder(tokenizer)
        self._second_reading = SecondReading(
            parts.model,
            parts.cache,
            parts.meter,
            tokenizer,
            limits.context_length,
            parts.planner.most_read_again,
        )
        self._limits = limits
        self._budgets = parts.budgets
        self._identity = parts.identity
        self._gate_digest = parts.gate_digest
        self._origin = CacheOrigin(
            parts.model.memories,
            parts.identity,
            parts.model.cache_layers,
            self.config.to_dict(),
            parts.gate_digest,
        )
        self._intake = parts.intake
        self._prompt_limits = PromptLimits(parts.model.num_token_ids, limits.context_length)
        self._requests = RunningRequests(self.cache, self.scheduler, self._intake, self.prefixes)
        self._drafting = Drafting(
            self.cache,
            parts.planner,
            self._requests,
            0 if self.eviction.accumulates else limits.prompt_lookup,
            limits.max_num_batched_tokens,
        )
        self._num_requests = 0

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
        require_drafts(config, self._limits.prompt_lookup)
        if grammar is None:
            grammar = self.build_grammar(config)
        request = new_request(
            self._num_requests,
            prompt_ids,
            config,
            self._tokenizer,
            session,
            self._prompt_limits,
            grammar,
        )
        if session is not None and config.num_return_sequences > 1:
            raise ConfigError(
                "a chat continues one answer, so num_return_sequences must be 1",
                "Generate alternatives without a chat session.",
            )
        if session is not None and session.thorough:
            self._prepare_thorough()
        self._drafting.begin(request)
        lead = request.generations[0]
        sequence = self._intake.begin(request.prompt_ids, session, prefix, owner, lead.metrics)
        self._num_requests += 1
        self._requests.add(request, sequence)
        return request

    def has_grammar(self, config: GenerationConfig) -> bool:
        """Whether ``config`` asks for none, or for one that is built."""
        grammar = grammar_of(config)
        return grammar is None or self._grammars.is_built(grammar)

    def build_grammar(self, config: GenerationConfig) -> BuiltGrammar | None:
        """What answers with ``config`` are bound to. See :class:`Engine`."""
        grammar = grammar_of(config)
        return None if grammar is None else self._grammars.build(grammar)

    def _prepare_thorough(self) -> None:
        if not self.config.evicts:
            raise ConfigError(
                "nothing is evicted, so reading twice would choose nothing",
                "Give a budget: max_cache_size or kv_budget_mb.",
            )
        self._second_reading.prepare()

    def step(self) -> list[Request]:
        """Run one inference for whoever is next; the requests that got tokens from it."""
        schedule = self.scheduler.schedule()
        schedule.chunks = self._drafting.add(schedule.chunks)
        self._requests.account(schedule)
        if not schedule.chunks:
            exhausted = schedule.exhausted
            return [] if exhausted is None else [self._requests.end_exhausted(exhausted)]
        with self._given_up_on_failure(schedule.chunks):
            batch = build_batch(schedule.chunks)
            begun = time.perf_counter()
            told = self.model.forward(batch)
            self._requests.note_inference(batch, begun)
            # What was drafted is known to be true when it has been sampled.
            advanced = self._requests.sample(batch, told.logits)
            self._drafting.take_back(batch)
            store(batch, told, self.eviction)
            self._drafting.note(batch, time.perf_counter() - begun)
            self._compress(batch)
        self._requests.settle(advanced)
        return advanced

    def has_unfinished(self) -> bool:
        """Whether ``step`` has anything to do."""
        return self.scheduler.has_unfinished()

    def cancel(
        self,
        request: Request,
        reason: GenerationFinishReason = GenerationFinishReason.NONE,
    ) -> None:
        """Stop ``request`` where it is; its tokens so far stay."""
        self._requests.cancel(request, reason)

    def preempt(self, sequence: Sequence) -> None:
        """Let a running ``sequence`` give up its cache and compute it again later."""
        self.scheduler.preempt(sequence)
        self._requests.metrics_of(sequence).num_preemptions += 1

    def close_session(self, session: Session) -> None:
        """Free what ``session`` holds, or is left by the request that runs on it."""
        session.is_closed = session.busy
        self.cache.drop(session)

    def hold_session(self, session: Session) -> HeldSession:
        """What ``session`` has cached now, for any thread to write."""
        holder = Session(owner=session.owner)
        if session.sequence is not None:
            copy = session.sequence.twin(session.token_ids)
            self.cache.fork(session.sequence, copy)
            self.cache.park(holder, copy)
        # What is held holds the holder, and with it the pages.
        sequence = holder.sequence
        return HeldSession(sequence, self._origin, lambda: holder.sequence is sequence)

    def save_session(self, session: Session, path: Path, about: Mapping[str, Any]) -> None:
        """Write what ``session`` has cached, and ``about``, to ``path``."""
        HeldSession(session.sequence, self._origin, lambda: True).write(path, about)

    def open_session(self, path: Path) -> AbstractContextManager[StoredSession]:
        """The session in the file at ``path``, proved to be one of this model."""
        model = self.model
        return open_session(path, model.memories, self._identity, model.cache_layers)

    def load_session(self, stored: StoredSession, session: Session) -> None:
        """Let ``session``, which has nothing cached, hold what was ``stored``."""
        session.lost = stored.lost
        if stored.state is not None:
            sequence = self._intake.new_sequence(stored.token_ids, session.owner)
            load_into(sequence, stored, self.cache, self._gate_digest)
            self.cache.park(session, sequence)

    def describe(self) -> PagedDescription:
        """What was really compiled and how much it holds."""
        model = self.model
        precisions = describe_precisions(model.precisions)
        return PagedDescription(
            engine="paged",
            device="CPU",
            key_cache_precision=precisions["key_cache_precision"],
            value_cache_precision=precisions["value_cache_precision"],
            kv_bytes_per_token=model.kv_bytes_per_token,
            page_size=PAGE_SIZE,
            pool_tokens=self.cache.max_tokens,
            max_num_batched_tokens=self._limits.max_num_batched_tokens,
            context_length=self._limits.context_length,
            kv_cache_config=self.config,
            num_layers=model.num_model_layers,
            inference_precision=model.inference_precision,
            decode_precision=model.decode_precision,
            decode_reason=model.decode_reason,
            layer_precisions=precisions["layer_precisions"],
            layer_shares=self._budgets.describe() if self.config.evicts else None,
            pool_bytes=self.cache.max_bytes,
            prompt_lookup=self._drafting.most,
        )

    def metrics(self) -> EngineMetrics:
        """What is held now and what has been done."""
        running, waiting = self.scheduler.running, self.scheduler.waiting
        return EngineMetrics(
            used_bytes=self.cache.used_bytes,
            pool_bytes=self.cache.max_bytes,
            owners={
                "running": sum(map(self.cache.bytes_of, running)),
                "waiting": sum(map(self.cache.bytes_of, waiting)),
                "chats": self.cache.parked_bytes(prefixes=False),
                "prefixes": self.cache.parked_bytes(prefixes=True),
            },
            num_running=len(running),
            num_waiting=len(waiting),
            num_requests=self._requests.num_open,
            num_prefix_hits=self.prefixes.num_hits,
            ended=copy.deepcopy(self._requests.ended),
            ended_requests=copy.copy(self._requests.ended_requests),
        )

    def check_integrity(self) -> None:
        """Prove that every page is free or owned once; RuntimeError otherwise."""
        self.cache.check_integrity([*self.scheduler.running, *self.scheduler.waiting])

    @contextmanager
    def _given_up_on_failure(self, chunks: SequenceOf[Chunk]) -> Iterator[None]:
        """Let the sequences of a step that fails half-way compute their cache again.

        What it holds then may be of any state in between. Those that got their last token go.
        """
        try:
            yield
        except BaseException:
            for chunk in reversed(chunks):
                self.scheduler.preempt(chunk.sequence)
            self._requests.let_finished_go(self._requests.requests_of(chunks))
            raise

    def _compress(self, batch: Batch) -> None:
        for chunk in batch.chunks:
            sequence = chunk.sequence
            metrics = self._requests.metrics_of(sequence)
            if not self._second_reading.read(sequence, metrics):
                self.preempt(sequence)
                continue
            # Before anything is evicted, and at a prompt's end.
            if not chunk.is_decode and chunk.ends:
                self.prefixes.keep_prompt(sequence)
            elif not chunk.is_decode and sequence.is_cut_due:
                self.prefixes.keep_uncut(sequence)
            begun = time.perf_counter()
            if not self.eviction.compress(sequence, self.cache):
                self.preempt(sequence)
            metrics.compression_time += time.perf_counter() - begun
            self.prefixes.keep_cut(sequence)
