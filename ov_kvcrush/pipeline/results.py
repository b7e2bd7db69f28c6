"""What ``generate`` returns: openvino_genai's fields, and what the KV cache cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ov_kvcrush.pipeline.call_times import timed, times_of_call
from ov_kvcrush.pipeline.perf_metrics import PerfMetrics
from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.generation.progress import TopTokens

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

    from ov_kvcrush.runtime.generation.request import Generation, Request


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
    texts = [_decode(tokenizer, g.tokens)[: g.checker.text_end] for g in generations]
    return DecodedResults(texts=texts, **_fields(generations, load_ms))


def encoded(generations: Sequence[Generation], load_ms: float) -> EncodedResults:
    """Their token ids and what they cost."""
    return EncodedResults(**_fields(generations, load_ms))


@timed("detokenization")
def _decode(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens))


def _fields(generations: Sequence[Generation], load_ms: float) -> dict[str, Any]:
    metrics = [g.metrics for g in generations]
    return {
        "tokens": [list(g.tokens) for g in generations],
        "scores": [g.score for g in generations],
        "finish_reasons": [g.finish_reason for g in generations],
        "perf_metrics": PerfMetrics.of(generations, times_of_call(), load_ms),
        "metrics": metrics,
        "log_probs": [g.log_probs[: len(g.tokens)] for g in generations],
        "top": [g.top[: len(g.tokens)] for g in generations],
    }
