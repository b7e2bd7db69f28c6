"""What ``generate`` returns: openvino_genai's fields, and what the KV cache cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.generation.progress import TopTokens

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

    from ov_kvcrush.runtime.generation.request import Generation, Request


class MeanStd(NamedTuple):
    """Mean and standard deviation of a duration in milliseconds, or of a rate per second."""

    mean: float
    std: float


@dataclass(frozen=True)
class PerfMetrics:
    """openvino_genai's ``PerfMetrics`` questions, answered from the engine's own clock."""

    generations: tuple[GenerationMetrics, ...]
    load_time: float
    """Milliseconds it took to load and compile the model."""

    def get_load_time(self) -> float:
        """Milliseconds to load and compile the model."""
        return self.load_time

    def get_num_input_tokens(self) -> int:
        """Prompt tokens of all prompts together."""
        return sum(m.num_prompt_tokens for m in self.generations)

    def get_num_generated_tokens(self) -> int:
        """Tokens generated, of all sequences together."""
        return sum(m.num_generated_tokens for m in self.generations)

    def get_ttft(self) -> MeanStd:
        """Milliseconds to the first token."""
        return _mean_std([1e3 * m.ttft for m in self.generations if m.token_times])

    def get_tpot(self) -> MeanStd:
        """Milliseconds per token after the first."""
        return _mean_std(self._gaps())

    def get_ipot(self) -> MeanStd:
        """Milliseconds per token, as ``get_tpot``."""
        return self.get_tpot()

    def get_throughput(self) -> MeanStd:
        """Tokens per second after the first."""
        return _mean_std([1e3 / gap for gap in self._gaps() if gap > 0])

    def get_generate_duration(self) -> MeanStd:
        """Milliseconds from request to last token."""
        return _mean_std([1e3 * m.duration for m in self.generations])

    def _gaps(self) -> list[float]:
        return [1e3 * float(gap) for m in self.generations for gap in np.diff(m.token_times)]


@dataclass(frozen=True)
class EncodedResults:
    """Generated token ids.

    Tokens are whole: the one in which a stop string begins is among them, if it begins with text
    before it.

    Attributes:
        tokens: ids of each sequence.
        scores: sum of the log probabilities of each (0 for greedy, as in openvino_genai).
        finish_reasons: openvino_genai's ``GenerationFinishReason`` of each.
        perf_metrics: times and counts.
        metrics: what each sequence cost, KV cache included.
        log_probs: of each sequence's tokens: the model's own where ``logprobs`` asks for them, else
            as in ``scores``.
        top: of each sequence, in place of each token, the ``logprobs`` likeliest ones and their log
            probabilities, the likeliest first.
    """

    tokens: list[list[int]]
    scores: list[float]
    finish_reasons: list[Any]
    perf_metrics: PerfMetrics
    metrics: list[GenerationMetrics]
    log_probs: list[list[float]] = field(default_factory=list)
    top: list[list[TopTokens]] = field(default_factory=list)


@dataclass(frozen=True)
class DecodedResults:
    """Generated texts; the other fields as :class:`EncodedResults`. ``str()`` gives the texts.

    A text ends where a stop string begins, or behind it where ``include_stop_str_in_output`` is
    set.
    """

    texts: list[str]
    scores: list[float]
    finish_reasons: list[Any]
    perf_metrics: PerfMetrics
    metrics: list[GenerationMetrics]
    tokens: list[list[int]] = field(default_factory=list)
    log_probs: list[list[float]] = field(default_factory=list)
    top: list[list[TopTokens]] = field(default_factory=list)

    def __str__(self) -> str:
        """The texts, one under the other."""
        return "\n".join(self.texts)


def ranked(requests: Sequence[Request]) -> list[Generation]:
    """Sequences of finished requests, those of a prompt best first, as in openvino_genai.

    Raises:
        OVKVCrushError: what ended a request before it had any answer.
    """
    for request in requests:
        if request.error is not None:
            raise request.error
    return [g for r in requests for g in sorted(r.generations, key=lambda g: -g.score)]


def decoded(
    tokenizer: Tokenizer, generations: Sequence[Generation], load_ms: float
) -> DecodedResults:
    """Their texts and what they cost."""
    texts = [tokenizer.decode(g.tokens)[: g.checker.text_end] for g in generations]
    return DecodedResults(texts=texts, **_fields(generations, load_ms))


def encoded(generations: Sequence[Generation], load_ms: float) -> EncodedResults:
    """Their token ids and what they cost."""
    return EncodedResults(**_fields(generations, load_ms))


def _fields(generations: Sequence[Generation], load_ms: float) -> dict[str, Any]:
    metrics = [g.metrics for g in generations]
    return {
        "tokens": [list(g.tokens) for g in generations],
        "scores": [g.score for g in generations],
        "finish_reasons": [g.finish_reason for g in generations],
        "perf_metrics": PerfMetrics(tuple(metrics), load_ms),
        "metrics": metrics,
        "log_probs": [g.log_probs[: len(g.tokens)] for g in generations],
        "top": [g.top[: len(g.tokens)] for g in generations],
    }


def _mean_std(values: Sequence[float]) -> MeanStd:
    if not values:
        return MeanStd(0.0, 0.0)
    return MeanStd(float(np.mean(values)), float(np.std(values)))
