"""Our engine as a side of a benchmark."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ov_kvcrush.benchmark.measurement import Measurement, mean_by_time, times_by_request
from ov_kvcrush.benchmark.side import (
    VOCABULARY_WHERE_UNKNOWN,
    Side,
    Stopwatch,
    answer_settings,
    require_answers,
)
from ov_kvcrush.benchmark.side_setup import SideSetup
from ov_kvcrush.benchmark.step_clock import StepClock
from ov_kvcrush.benchmark.workload import Workload
from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session


class OurSide(Side):
    """The paged engine, stepped from here; errors as the engine's."""

    def __init__(self, setup: SideSetup) -> None:
        self._setup = setup
        self._engine = PagedEngine(
            setup.model_dir,
            load_tokenizer(setup.model_dir),
            setup.device,
            config=setup.cache_config(),
            properties={**setup.properties, "INFERENCE_NUM_THREADS": setup.num_threads},
            limits=EngineLimits(
                setup.max_num_batched_tokens,
                setup.max_num_seqs,
                prompt_lookup=setup.prompt_lookup,
            ),
            decode_precision=setup.decode_precision,
        )
        self.vocabulary = self._engine.model.num_token_ids or VOCABULARY_WHERE_UNKNOWN
        self._clock = StepClock(self._engine)

    def measure(self, workload: Workload, turn: int) -> Measurement:
        """Do ``workload`` once. See :class:`Side`."""
        engine, settings = self._engine, answer_settings(workload.answer_tokens)
        prompts = workload.prompts(turn, self.vocabulary)
        keeps = workload.next_turn_tokens > 0
        sessions = [Session() if keeps else None for _ in prompts]
        steps: list[tuple[float, int]] = []
        self._clock.restart()
        watch = Stopwatch()
        requests = [
            engine.add_request(prompt, settings, session)
            for prompt, session in zip(prompts, sessions, strict=True)
        ]
        while engine.has_unfinished():
            begun = time.perf_counter()
            engine.step()
            steps.append((time.perf_counter() - begun, self._clock.num_in_step))
        seconds, cpu_seconds, peak = watch.elapsed(), watch.cpu_seconds(), watch.peak_bytes
        metrics = [request.generations[0].metrics for request in requests]
        parts = self._clock.parts(metrics, seconds)
        ttft, tpot = times_by_request(
            [[moment - watch.begun for moment in one.token_times] for one in metrics],
            workload.answer_tokens,
        )
        require_answers(len(ttft), workload, self._setup)
        kv_bytes_peak = self._clock.used_bytes
        num_computed = self._clock.num_computed_tokens
        next_ttft = self._next_turn(workload, turn, prompts, requests, sessions) if keeps else ()
        return Measurement(
            num_requests=workload.num_requests,
            ttft=ttft,
            tpot=tpot,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            num_generated=len(ttft) * workload.answer_tokens,
            kv_bytes=sum(one.kv_bytes for one in metrics),
            kv_bytes_peak=kv_bytes_peak,
            resident_bytes=peak,
            next_ttft=next_ttft,
            parts=parts,
            num_preemptions=sum(one.num_preemptions for one in metrics),
            num_computed_tokens=num_computed,
            mean_concurrency=mean_by_time(steps),
        )

    def _next_turn(
        self,
        workload: Workload,
        turn: int,
        prompts: Sequence[list[int]],
        requests: Sequence[Request],
        sessions: Sequence[Session | None],
    ) -> tuple[float, ...]:
        """Seconds to the first token of the chats' next turns, which go on from their caches."""
        questions = workload.questions(turn, self.vocabulary)
        begun = time.perf_counter()
        following = [
            self._engine.add_request(
                [*prompt, *request.generations[0].tokens, *question], answer_settings(1), session
            )
            for prompt, request, question, session in zip(
                prompts, requests, questions, sessions, strict=True
            )
        ]
        while self._engine.has_unfinished():
            self._engine.step()
        for session in sessions:
            if session is not None:
                self._engine.close_session(session)
        metrics = [request.generations[0].metrics for request in following]
        return tuple(one.token_times[0] - begun for one in metrics if one.token_times)
