"""A request inside openvino_genai's pipeline, and what it holds there, counted along."""

from __future__ import annotations

import time
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openvino_genai import GenerationFinishReason, GenerationStatus

from ov_kvcrush.errors import PromptError
from ov_kvcrush.runtime.engine_metrics import EndedSequences
from ov_kvcrush.runtime.genai.eviction import GenaiEviction
from ov_kvcrush.runtime.genai.page_bytes import PageBytes
from ov_kvcrush.runtime.generation.request import Generation, Request
from ov_kvcrush.runtime.generation.sampler import SampledToken

if TYPE_CHECKING:
    from openvino_genai import GenerationHandle, GenerationOutput


@dataclass
class CacheCount:
    """Tokens one sequence holds in the pipeline's cache, counted along: the pipeline does not tell.

    Attributes:
        prompt_length: tokens of the prompt.
        length: tokens held.
        peak: most tokens held at a time.
        num_evicted: tokens no longer held.
    """

    prompt_length: int
    length: int = 0
    peak: int = 0
    num_evicted: int = 0

    def grow(self, eviction: GenaiEviction | None) -> None:
        """Take in what was computed for one more generated token, and evict."""
        if not self.length:
            self.length = self.peak = self.prompt_length
            return
        self.length += 1
        self.peak = max(self.peak, self.length)
        if eviction is not None:
            kept = eviction.kept(self.length)
            self.num_evicted += self.length - kept
            self.length = kept


class Running:
    """A request inside the pipeline: its tokens as they come, and its end.

    Args:
        request: what was asked for.
        handle: reads its tokens; the pipeline drops a request whose handle nobody holds.
        eviction: the pipeline's, None where it evicts nothing.

    Attributes:
        request: what was asked for.
        handle: reads its tokens.
    """

    def __init__(
        self, request: Request, handle: GenerationHandle, eviction: GenaiEviction | None
    ) -> None:
        self.request = request
        self.handle = handle
        self._eviction = eviction
        self._caches = [CacheCount(len(request.prompt_ids)) for _ in request.generations]

    @property
    def has_ended(self) -> bool:
        """Whether the pipeline has dropped it."""
        return bool(self.handle.get_status() != GenerationStatus.RUNNING)

    def read(self) -> bool:
        """Take what the pipeline has generated; whether there was anything."""
        was_any = False
        while self.handle.can_read():
            outputs = self.handle.read()
            # One output for a single sequence each time; of several, all at the end.
            for generation, key in zip(self.request.generations, sorted(outputs), strict=False):
                was_any = True
                try:
                    self._take(generation, outputs[key])
                except Exception as error:  # its own text or settings: the others go on
                    self.request.fail(error)
        return was_any

    def end(self) -> None:
        """Note why it has ended: the pipeline tells it of the request, not of each sequence."""
        out_of_memory = self.handle.get_status() == GenerationStatus.IGNORED
        reason = GenerationFinishReason.LENGTH if out_of_memory else GenerationFinishReason.STOP
        self.end_with(reason)
        if out_of_memory and not any(g.tokens for g in self.request.generations):
            self.request.error = too_long(self.request.prompt_ids)

    def end_with(self, reason: GenerationFinishReason) -> None:
        """Sequences without a finish reason get ``reason``, and its session may be asked again."""
        for generation in self.request.generations:
            generation.end(reason)
        if self.request.session is not None:
            self.request.session.busy = False

    def sum_up(self, sizes: PageBytes, ended: EndedSequences) -> None:
        """Note what its sequences cost, and add it to ``ended``."""
        for generation, cache in zip(self.request.generations, self._caches, strict=True):
            metrics = generation.metrics
            metrics.kv_tokens = cache.length
            metrics.num_evicted_tokens = cache.num_evicted
            metrics.kv_bytes = sizes.bytes_for(cache.length)
            metrics.kv_bytes_full = sizes.bytes_for(cache.length + cache.num_evicted)
            metrics.kv_bytes_peak = sizes.bytes_for(cache.peak)
            cancelled = generation.finish_reason == GenerationFinishReason.NONE
            ended.add(metrics, cancelled=cancelled)

    def _take(self, generation: Generation, output: GenerationOutput) -> None:
        now = time.perf_counter()
        tokens = output.generated_ids
        for token, log_prob in zip(tokens, output.generated_log_probs, strict=True):
            self._caches[generation.index].grow(self._eviction)
            # It may have ended here before it does there.
            if generation.finish_reason is None:
                generation.append(SampledToken(token, log_prob), now)
        if output.finish_reason != GenerationFinishReason.NONE:
            generation.end(output.finish_reason)


def too_long(prompt: SequenceOf[int]) -> PromptError:
    """Why ``prompt`` does not fit."""
    return PromptError(
        f"a prompt of {len(prompt)} tokens does not fit the KV cache: openvino_genai evicts "
        "nothing before the whole prompt is in it",
        "Shorten the prompt, or give a larger pool_size.",
    )
