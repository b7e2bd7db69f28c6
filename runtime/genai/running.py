"""A request inside openvino_genai's pipeline, and what it holds there, counted along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ov_kvcrush.runtime.genai.eviction import GenaiEviction
from ov_kvcrush.runtime.generation.request import Request

if TYPE_CHECKING:
    from openvino_genai import GenerationHandle


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
    """A request inside the pipeline.

    Attributes:
        request: what was asked for.
        handle: reads its tokens; the pipeline drops a request whose handle nobody holds.
        caches: by generation.
    """

    def __init__(self, request: Request, handle: GenerationHandle) -> None:
        self.request = request
        self.handle = handle
        self.caches = [CacheCount(len(request.prompt_ids)) for _ in request.generations]
