"""Whose sequence is whose: requests from their first sequence to the end of their last."""

from __future__ import annotations

import time
from collections.abc import Sequence as SequenceOf
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray
from openvino_genai import GenerationFinishReason

from ov_kvcrush.runtime.engine_metrics import EndedRequests, EndedSequences
from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.generation.request import Generation, Request
from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.scheduling.intake import Intake
from ov_kvcrush.runtime.scheduling.scheduler import Schedule, Scheduler
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.prefixes import Prefixes
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence


class RunningRequests:
    """The requests whose sequences run or wait.

    Args:
        cache: gives and takes pages.
        scheduler: runs the sequences.
        intake: makes those that follow a prompt.
        prefixes: keeps what others may begin with.

    Attributes:
        ended: sums over the sequences that have ended.
        ended_requests: how requests have ended.
    """

    def __init__(
        self, cache: KVCache, scheduler: Scheduler, intake: Intake, prefixes: Prefixes
    ) -> None:
        self._cache = cache
        self._scheduler = scheduler
        self._intake = intake
        self._prefixes = prefixes
        self._owners: dict[Sequence, tuple[Request, Generation]] = {}
        self.ended = EndedSequences()
        self.ended_requests = EndedRequests()

    def add(self, request: Request, sequence: Sequence) -> None:
        """Let ``sequence`` read the prompt of ``request``; what cannot be queued is released."""
        with self._cache.released_on_failure(sequence):
            self._scheduler.add(sequence)
        self._own(sequence, request, request.generations[0])
        if request.session is not None:
            request.session.busy = True
            request.session.is_closed = False

    @property
    def num_open(self) -> int:
        """Requests that have not ended."""
        return len({request.request_id for request, _ in self._owners.values()})

    def metrics_of(self, sequence: Sequence) -> GenerationMetrics:
        """What ``sequence`` costs."""
        return self.generation_of(sequence).metrics

    def generation_of(self, sequence: Sequence) -> Generation:
        """What ``sequence`` is generated for."""
        return self._owners[sequence][1]

    def account(self, schedule: Schedule) -> None:
        """Note what a step costs its sequences."""
        for sequence in schedule.preempted:
            self.metrics_of(sequence).num_preemptions += 1
        for chunk in schedule.chunks:
            metrics = self.metrics_of(chunk.sequence)
            metrics.num_reused_tokens = chunk.sequence.num_reused
            held = self._cache.bytes_of(chunk.sequence)
            metrics.kv_bytes_peak = max(metrics.kv_bytes_peak, held)

    def note_inference(self, batch: Batch, begun: float) -> None:
        """Note the inference of ``batch``, which began when the clock was ``begun``."""
        duration = time.perf_counter() - begun
        for chunk in batch.chunks:
            self.metrics_of(chunk.sequence).inference_times[begun] = duration

    def sample(self, batch: Batch, logits: NDArray[np.float32]) -> list[Request]:
        """Give each sequence that was read to its end its tokens; the requests that got any."""
        begun = time.perf_counter()
        advanced: dict[int, Request] = {}
        for chunk, rows in zip(batch.ending, batch.logit_rows, strict=True):
            request, generation = self._owners[chunk.sequence]
            try:
                # The other return sequences begin where the first one's prompt ends.
                for one in [generation, *_not_begun(request)]:
                    one.take(logits[rows], chunk.drafts)
            except Exception as error:  # its settings, its text: the others go on
                request.fail(error)
            advanced[request.request_id] = request
        duration = time.perf_counter() - begun
        for chunk in batch.ending:
            self.metrics_of(chunk.sequence).sampling_times[begun] = duration
        return list(advanced.values())

    def settle(self, requests: SequenceOf[Request]) -> None:
        """Start the sequences that follow a prompt, and let finished ones go."""
        with ExitStack() as endings:
            endings.callback(self.let_finished_go, requests)
            for request in requests:
                for generation in _not_begun(request):
                    self._start(request, generation)

    def let_finished_go(self, requests: SequenceOf[Request]) -> None:
        """Take leave of their sequences that have come to their end, whatever fails meanwhile."""
        with ExitStack() as endings:
            for request in reversed(requests):
                for generation in reversed(request.generations):
                    sequence = generation.sequence
                    has_ended = generation.finish_reason is not None
                    if has_ended and sequence is not None and sequence in self._owners:
                        endings.callback(self._finish, sequence, request, generation)

    def requests_of(self, chunks: SequenceOf[Chunk]) -> list[Request]:
        """The requests that ``chunks`` are computed for, each once."""
        owners = [self._owners[chunk.sequence][0] for chunk in chunks]
        return list({request.request_id: request for request in owners}.values())

    def cancel(self, request: Request, reason: GenerationFinishReason) -> None:
        """Stop ``request`` where it is, for ``reason``; its tokens so far stay."""
        with ExitStack() as endings:
            endings.callback(self.settle, [request])
            for generation in request.generations:
                endings.callback(generation.end, reason)

    def end_exhausted(self, sequence: Sequence) -> Request:
        """End the request of ``sequence``, for which there is no page, and never will be."""
        request, generation = self._owners[sequence]
        with ExitStack() as endings:
            endings.callback(self.settle, [request])
            generation.end(GenerationFinishReason.LENGTH)
            if not generation.tokens:
                request.error = self._intake.too_long(sequence)
        return request

    def _own(self, sequence: Sequence, request: Request, generation: Generation) -> None:
        self._owners[sequence] = (request, generation)
        generation.sequence = sequence

    def _start(self, request: Request, generation: Generation) -> None:
        """Let ``generation`` go on from the prompt of ``request``, which its first one has read."""
        tokens = [*request.prompt_ids, *generation.tokens]
        lead = request.generations[0].sequence
        sequence = self._intake.new_sequence(tokens, "" if lead is None else lead.owner)
        if lead is not None and lead.num_cached:
            self._cache.fork(lead, sequence)
            self._own(sequence, request, generation)
            self._scheduler.join(sequence)
        else:
            self._intake.plan(sequence, len(request.prompt_ids))
            self._own(sequence, request, generation)
            self._scheduler.add(sequence)

    def _finish(self, sequence: Sequence, request: Request, generation: Generation) -> None:
        session = request.session
        del self._owners[sequence]
        if request.finished and not any(owner is request for owner, _ in self._owners.values()):
            self.ended_requests.add(request)
        self._scheduler.remove(sequence)
        try:
            _take_back(sequence, len(request.prompt_ids) + generation.checker.num_whole)
            self._cache.trim(sequence)
            self._sum_up(generation, sequence)
            if session is None:
                self._prefixes.keep_uncut(sequence)
        finally:
            if session is None:
                self._cache.release(sequence)
            else:
                session.busy = False
                if session.is_prefix:
                    del sequence.tokens[sequence.num_cached :]
                if session.is_closed:
                    self._cache.release(sequence)
                else:
                    self._cache.park(session, sequence)

    def _sum_up(self, generation: Generation, sequence: Sequence) -> None:
        metrics = generation.metrics
        metrics.kv_tokens = sequence.num_kept
        metrics.kv_bytes = self._cache.bytes_of(sequence)
        metrics.kv_bytes_full = self._cache.bytes_for(sequence.num_cached)
        metrics.num_evicted_tokens = sequence.num_cached - sequence.num_kept
        cancelled = generation.finish_reason == GenerationFinishReason.NONE
        self.ended.add(metrics, cancelled=cancelled)


def _not_begun(request: Request) -> list[Generation]:
    return [g for g in request.generations if g.sequence is None and g.finish_reason is None]


def _take_back(sequence: Sequence, num_tokens: int) -> None:
    """Take back tokens that a stop string has cut, so that a chat goes on from those before."""
    if num_tokens < sequence.num_cached:
        if not sequence.can_rewind_to(num_tokens):
            return
        sequence.rewind_cache_to(num_tokens)
    del sequence.tokens[num_tokens:]
