"""What a call cost in time, told as openvino_genai tells it."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ov_kvcrush.pipeline.call_times import CallTimes

if TYPE_CHECKING:
    from ov_kvcrush.runtime.generation.request import Generation

_NOT_MEASURED = -1.0


class MeanStd(NamedTuple):
    """Mean and standard deviation; -1 and -1 of nothing, as in openvino_genai."""

    mean: float
    std: float


class SummaryStats(NamedTuple):
    """Mean, standard deviation, least and most; all -1 of nothing, as in openvino_genai."""

    mean: float
    std: float
    min: float
    max: float


@dataclass
class RawPerfMetrics:
    """Every single time, in microseconds, under openvino_genai's names.

    Attributes:
        generate_durations: of each call, from its coming to its last text.
        tokenization_durations: of each text that was encoded.
        detokenization_durations: of each answer that was decoded.
        chat_template_durations: of each time the chat template was rendered.
        m_times_to_first_token: of each sequence, since the engine got its prompt.
        m_new_token_times: clock of each step that gave tokens.
        token_infer_durations: of each of these steps' inferences.
        m_batch_sizes: tokens that each of these steps gave.
        m_durations: of each token after the first step: what its step took, by the tokens it gave.
        inference_durations: of each call, all its inferences together.
        sampling_durations: of each step that gave tokens; none where the engine does not tell.
        grammar_compile_times: always empty: structured output is not served.
    """

    generate_durations: list[float] = field(default_factory=list)
    tokenization_durations: list[float] = field(default_factory=list)
    detokenization_durations: list[float] = field(default_factory=list)
    chat_template_durations: list[float] = field(default_factory=list)
    m_times_to_first_token: list[float] = field(default_factory=list)
    m_new_token_times: list[float] = field(default_factory=list)
    token_infer_durations: list[float] = field(default_factory=list)
    m_batch_sizes: list[int] = field(default_factory=list)
    m_durations: list[float] = field(default_factory=list)
    inference_durations: list[float] = field(default_factory=list)
    sampling_durations: list[float] = field(default_factory=list)
    grammar_compile_times: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class PerfMetrics:
    """openvino_genai's ``PerfMetrics``, answered from our own clocks. ``+`` joins those of calls.

    Attributes:
        load_time: milliseconds it took to load and compile the model.
        num_input_tokens: of all prompts together.
        num_generated_tokens: of all sequences together.
        raw_metrics: every single time.
    """

    load_time: float = 0.0
    num_input_tokens: int = 0
    num_generated_tokens: int = 0
    raw_metrics: RawPerfMetrics = field(default_factory=RawPerfMetrics)

    @classmethod
    def of(
        cls, generations: Sequence[Generation], times: CallTimes, load_time: float
    ) -> PerfMetrics:
        """Those of one call, which made ``generations``."""
        metrics = [one.metrics for one in generations]
        return cls(
            load_time=load_time,
            # The other sequences of a prompt were generated from what the first has read.
            num_input_tokens=sum(g.metrics.num_prompt_tokens for g in generations if not g.index),
            num_generated_tokens=sum(one.num_generated_tokens for one in metrics),
            raw_metrics=_raw(generations, times),
        )

    def __add__(self, other: PerfMetrics) -> PerfMetrics:
        """Those of this one's calls and the other's, whose model is the same."""
        if not isinstance(other, PerfMetrics):
            return NotImplemented
        joined = {
            one.name: getattr(self.raw_metrics, one.name) + getattr(other.raw_metrics, one.name)
            for one in dataclasses.fields(RawPerfMetrics)
        }
        return PerfMetrics(
            self.load_time,
            self.num_input_tokens + other.num_input_tokens,
            self.num_generated_tokens + other.num_generated_tokens,
            RawPerfMetrics(**joined),
        )

    def get_load_time(self) -> float:
        """Milliseconds to load and compile the model."""
        return self.load_time

    def get_num_input_tokens(self) -> int:
        """Prompt tokens of all prompts together."""
        return self.num_input_tokens

    def get_num_generated_tokens(self) -> int:
        """Tokens generated, of all sequences together."""
        return self.num_generated_tokens

    def get_ttft(self) -> MeanStd:
        """Milliseconds to the first token."""
        return _in_ms(self.raw_metrics.m_times_to_first_token)

    def get_tpot(self) -> MeanStd:
        """Milliseconds per token after the first step, of all sequences together."""
        return _in_ms(self.raw_metrics.m_durations)

    def get_ipot(self) -> MeanStd:
        """Milliseconds of inference per token."""
        raw = self.raw_metrics
        pairs = zip(raw.token_infer_durations, raw.m_batch_sizes, strict=True)
        return _in_ms([duration / tokens for duration, tokens in pairs for _ in range(tokens)])

    def get_throughput(self) -> MeanStd:
        """Tokens per second after the first step, of all sequences together."""
        tpot = self.get_tpot()
        if tpot.mean <= 0:
            return MeanStd(_NOT_MEASURED, _NOT_MEASURED)
        # A small relative error of a time is one of its inverse.
        return MeanStd(1e3 / tpot.mean, 1e3 * tpot.std / tpot.mean**2)

    def get_generate_duration(self) -> MeanStd:
        """Milliseconds of a call."""
        return _in_ms(self.raw_metrics.generate_durations)

    def get_inference_duration(self) -> MeanStd:
        """Milliseconds of a call's inferences together."""
        return _in_ms(self.raw_metrics.inference_durations)

    def get_tokenization_duration(self) -> MeanStd:
        """Milliseconds of encoding a text."""
        return _in_ms(self.raw_metrics.tokenization_durations)

    def get_detokenization_duration(self) -> MeanStd:
        """Milliseconds of decoding an answer; of a stream, when it has come to its end."""
        return _in_ms(self.raw_metrics.detokenization_durations)

    def get_chat_template_duration(self) -> MeanStd:
        """Milliseconds of rendering the chat template."""
        return _in_ms(self.raw_metrics.chat_template_durations)

    def get_sampling_duration(self) -> MeanStd:
        """Milliseconds of a step's sampling."""
        return _in_ms(self.raw_metrics.sampling_durations)

    def get_grammar_compiler_init_times(self) -> dict[str, float]:
        """Nothing: structured output is not served."""
        return {}

    def get_grammar_compile_time(self) -> SummaryStats:
        """Of nothing: structured output is not served."""
        return SummaryStats(*[_NOT_MEASURED] * 4)


def _raw(generations: Sequence[Generation], times: CallTimes) -> RawPerfMetrics:
    metrics = [one.metrics for one in generations]
    inferences = _union([one.inference_times for one in metrics])
    begins = list(inferences)
    # A step's tokens are sampled one after the other, when its inference is done.
    tokens = Counter[int]()
    ready: dict[int, float] = {}
    for clock in sorted(clock for one in metrics for clock in one.token_times):
        step = bisect_right(begins, clock) - 1
        tokens[step] += 1
        ready[step] = clock
    steps = sorted(ready)
    gaps = np.diff([ready[step] for step in steps]).tolist()
    shared = zip(steps[1:], gaps, strict=True)
    end = max(ready.values(), default=times.begun) + sum(times.detokenization)
    durations = dict(enumerate(inferences.values()))
    return RawPerfMetrics(
        generate_durations=_in_us([end - times.begun]),
        tokenization_durations=_in_us(times.tokenization),
        detokenization_durations=_in_us(times.detokenization),
        chat_template_durations=_in_us(times.chat_template),
        m_times_to_first_token=_in_us([one.ttft for one in metrics if one.token_times]),
        m_new_token_times=_in_us([ready[step] for step in steps]),
        token_infer_durations=_in_us([durations.get(step, 0.0) for step in steps]),
        m_batch_sizes=[tokens[step] for step in steps],
        m_durations=_in_us([gap / tokens[n] for n, gap in shared for _ in range(tokens[n])]),
        inference_durations=_in_us([sum(durations.values())]),
        sampling_durations=_in_us(_union([one.sampling_times for one in metrics]).values()),
    )


def _union(by_clock: Iterable[Mapping[float, float]]) -> dict[float, float]:
    """Each once, in the order of the clock: sequences that run together share their steps."""
    return dict(sorted({clock: time for one in by_clock for clock, time in one.items()}.items()))


def _in_us(seconds: Iterable[float]) -> list[float]:
    return [1e6 * one for one in seconds]


def _in_ms(microseconds: Sequence[float]) -> MeanStd:
    if not microseconds:
        return MeanStd(_NOT_MEASURED, _NOT_MEASURED)
    values = 1e-3 * np.array(microseconds)
    return MeanStd(float(values.mean()), float(values.std()))
