"""openvino_genai's continuous batching as a side of a benchmark, with its own eviction or none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from openvino_genai import ContinuousBatchingPipeline

from ov_kvcrush.benchmark.measurement import Measurement, mean_by_time, times_by_request
from ov_kvcrush.benchmark.side import (
    VOCABULARY_WHERE_UNKNOWN,
    Side,
    Stopwatch,
    answer_settings,
    require_answers,
)
from ov_kvcrush.benchmark.side_setup import SideSetup
from ov_kvcrush.benchmark.step_clock import INFERENCE, REST, SAMPLING
from ov_kvcrush.benchmark.workload import Workload
from ov_kvcrush.errors import ModelError, last_line
from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.runtime.genai.eviction import GenaiEviction
from ov_kvcrush.runtime.genai.page_bytes import PageBytes
from ov_kvcrush.runtime.genai.settings import (
    page_size_of,
    plugin_properties,
    scheduler_config,
    stored_precision,
)
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.model.vocabulary import num_token_ids
from ov_kvcrush.runtime.pages.layout import page_bytes
from ov_kvcrush.runtime.plugin.core import not_compiled, require_device
from ov_kvcrush.runtime.plugin.given_properties import read_properties
from ov_kvcrush.runtime.plugin.ir_file import read_ir

if TYPE_CHECKING:
    from openvino_genai import GenerationHandle, PerfMetrics


class GenaiSide(Side):
    """Its pipeline, with a pool that is allocated beforehand.

    Raises:
        DeviceError: there is no such device.
        ConfigError, ModelError, UnsupportedError: as the genai engine.
    """

    def __init__(self, setup: SideSetup) -> None:
        self._setup = setup
        device = require_device(setup.device)
        given = dict(setup.properties)
        if device == "CPU":
            given["INFERENCE_NUM_THREADS"] = str(setup.num_threads)
        config, properties = read_properties(device, given, setup.cache_config())
        page_size = page_size_of(device)
        self._eviction = GenaiEviction.of(config, page_size) if config.evicts else None
        plan = KVPlan.load(setup.model_dir)
        properties = plugin_properties(properties, config, plan)
        limits = EngineLimits(setup.max_num_batched_tokens, setup.max_num_seqs)
        scheduler = scheduler_config(config, self._eviction, page_size, limits)
        self.vocabulary = num_token_ids(read_ir(setup.model_dir)) or VOCABULARY_WHERE_UNKNOWN
        try:
            self._pipeline = ContinuousBatchingPipeline(
                setup.model_dir, load_tokenizer(setup.model_dir), scheduler, device, **properties
            )
        except RuntimeError as error:
            raise not_compiled(error, "openvino_genai could not load the model") from error
        precision = stored_precision(plan, properties)
        planned = 0
        if plan is not None and precision is not None and device == "CPU":
            planned = page_bytes(plan.layers, [precision] * len(plan.layers))
        self._sizes = PageBytes(self._pipeline, page_size, planned)
        self._num_requests = 0

    def measure(self, workload: Workload, turn: int) -> Measurement:
        """Do ``workload`` once. See :class:`Side`."""
        prompts = workload.prompts(turn, self.vocabulary)
        try:
            if workload.num_requests == 1 and not self._needs_steps:
                return self._measure_alone(workload, turn, prompts[0])
            return self._measure_steps(workload, turn, prompts)
        except RuntimeError as error:
            raise ModelError(f"{self._setup.title} failed: {last_line(error)}") from error

    @property
    def _needs_steps(self) -> bool:
        """Whether the first request has to show what a page takes."""
        return not self._sizes.of_page

    def _measure_alone(self, workload: Workload, turn: int, prompt: list[int]) -> Measurement:
        """One request, by the pipeline's own clock, which leaves the way back into Python out."""
        settings = answer_settings(workload.answer_tokens)
        watch = Stopwatch()
        (result,) = self._pipeline.generate([_tensor(prompt)], [settings])
        seconds, cpu_seconds, peak = watch.elapsed(), watch.cpu_seconds(), watch.peak_bytes
        (answer,) = result.m_generation_ids
        is_whole = len(answer) == workload.answer_tokens
        require_answers(is_whole, workload, self._setup)
        times: PerfMetrics = result.perf_metrics
        return Measurement(
            num_requests=1,
            ttft=(times.get_ttft().mean / 1e3,),
            tpot=(times.get_tpot().mean / 1e3 if workload.answer_tokens > 1 else 0.0,),
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            num_generated=len(answer),
            kv_bytes=self._bytes_at_the_end(workload),
            kv_bytes_peak=self._peak_of_one(workload),
            resident_bytes=peak,
            next_ttft=self._next_turn(workload, turn, [[*prompt, *answer]]),
            parts=_parts(times, seconds),
            mean_concurrency=1.0,
        )

    def _measure_steps(
        self, workload: Workload, turn: int, prompts: Sequence[list[int]]
    ) -> Measurement:
        """Several requests, step by step: its own figures are of all of them together."""
        steps: list[tuple[float, int]] = []
        used = 0
        watch = Stopwatch()
        handles = self._add(prompts, workload.answer_tokens)
        times: list[list[float]] = [[] for _ in handles]
        answers: list[list[int]] = [[] for _ in handles]
        while self._pipeline.has_non_finished_requests():
            begun = time.perf_counter()
            self._pipeline.step()
            now = time.perf_counter()
            steps.append((now - begun, self._pipeline.get_metrics().scheduled_requests))
            self._sizes.learn(map(len, prompts), self._setup.max_num_batched_tokens)
            used = max(used, self._sizes.used)
            for handle, moments, answer in zip(handles, times, answers, strict=True):
                new = _read(handle)
                moments += [now - watch.begun] * len(new)
                answer += new
        seconds, cpu_seconds, peak = watch.elapsed(), watch.cpu_seconds(), watch.peak_bytes
        ttft, tpot = times_by_request(times, workload.answer_tokens)
        require_answers(len(ttft), workload, self._setup)
        known = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        return Measurement(
            num_requests=workload.num_requests,
            ttft=ttft,
            tpot=tpot,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            num_generated=len(ttft) * workload.answer_tokens,
            kv_bytes=len(ttft) * self._bytes_at_the_end(workload),
            kv_bytes_peak=used,
            resident_bytes=peak,
            next_ttft=self._next_turn(workload, turn, known),
            mean_concurrency=mean_by_time(steps),
        )

    def _next_turn(
        self, workload: Workload, turn: int, known: Sequence[list[int]]
    ) -> tuple[float, ...]:
        """Seconds to the first token of the chats' next turns.

        Where it evicts nothing is kept between requests, and the whole history is read again; else
        its prefix caching knows the history.
        """
        if not workload.next_turn_tokens:
            return ()
        questions = workload.questions(turn, self.vocabulary)
        begun = time.perf_counter()
        handles = self._add([[*k, *q] for k, q in zip(known, questions, strict=True)], 1)
        first: dict[int, float] = {}
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for number, handle in enumerate(handles):
                if _read(handle):
                    first.setdefault(number, time.perf_counter() - begun)
        return tuple(first.values())

    def _add(self, prompts: Sequence[list[int]], num_tokens: int) -> list[GenerationHandle]:
        first, self._num_requests = self._num_requests, self._num_requests + len(prompts)
        return [
            self._pipeline.add_request(number, _tensor(prompt), answer_settings(num_tokens))
            for number, prompt in enumerate(prompts, start=first)
        ]

    def _bytes_at_the_end(self, workload: Workload) -> int:
        """Of a sequence, by its own rule of eviction: the pipeline does not tell.

        (tests/runtime/genai/test_genai_engine.py checks the rule step by step.)
        """
        held = workload.prompt_tokens
        for _ in range(workload.answer_tokens - 1):
            held = held + 1 if self._eviction is None else self._eviction.kept(held + 1)
        return self._sizes.bytes_for(held)

    def _peak_of_one(self, workload: Workload) -> int:
        """Nothing is evicted while a prompt is read."""
        read = self._sizes.bytes_for(workload.prompt_tokens)
        return max(read, self._bytes_at_the_end(workload))


def _tensor(prompt: Sequence[int]) -> ov.Tensor:
    return ov.Tensor(np.array([prompt], np.int64))


def _read(handle: GenerationHandle) -> list[int]:
    """The tokens that have come since it was last read."""
    tokens: list[int] = []
    while handle.can_read():
        for output in handle.read().values():
            tokens += output.generated_ids
    return tokens


def _parts(times: PerfMetrics, seconds: float) -> dict[str, float]:
    """What openvino_genai tells of where its time went."""
    inference = times.get_inference_duration().mean / 1e3
    sampling = times.get_sampling_duration().mean / 1e3
    rest = max(0.0, seconds - inference - sampling)
    return {INFERENCE: inference, SAMPLING: sampling, REST: rest}
