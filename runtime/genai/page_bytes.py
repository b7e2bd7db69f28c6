"""What the pages of openvino_genai's pool take: as planned, or as found out from its first step."""

from __future__ import annotations

from collections.abc import Iterable

from openvino_genai import ContinuousBatchingPipeline


class PageBytes:
    """Sizes of pages and of the pool.

    openvino_genai counts an element of u4 as a byte; where the KV plan tells what a page takes,
    that is right.

    Args:
        pipeline: whose pool.
        page_size: tokens of a page.
        planned: bytes of a page in all layers, 0 where no plan tells.
    """

    def __init__(
        self, pipeline: ContinuousBatchingPipeline, page_size: int, planned: int = 0
    ) -> None:
        self._pipeline = pipeline
        self._page_size = page_size
        self._planned = planned
        self._reported = 0

    @property
    def of_page(self) -> int:
        """Bytes of a page in all layers; 0 where no plan tells and nothing has run yet."""
        return self._planned or self._reported

    @property
    def per_token(self) -> float:
        """Bytes of a token in all layers; 0 likewise."""
        return self.of_page / self._page_size

    @property
    def pool(self) -> int:
        """Bytes of the pool as it is now."""
        return round(self._reported_pool()[0] * self._factor)

    @property
    def used(self) -> int:
        """Bytes of its used part, as of the last step."""
        return round(self._reported_pool()[1] * self._factor)

    def pages_for(self, tokens: int) -> int:
        """Pages that ``tokens`` tokens take."""
        return -(-tokens // self._page_size)

    def bytes_for(self, tokens: int) -> int:
        """Bytes of these pages."""
        return self.pages_for(tokens) * self.of_page

    def learn(self, prompt_lengths: Iterable[int], max_num_batched_tokens: int) -> None:
        """Find out from the first step, which only prefills, what a page takes.

        Args:
            prompt_lengths: of the requests that run, in their order.
            max_num_batched_tokens: of the step.
        """
        if self._reported:
            return
        left, pages = max_num_batched_tokens, 0
        for length in prompt_lengths:
            count = min(left, length)
            left -= count
            pages += self.pages_for(count)
        if pages:
            self._reported = round(self._reported_pool()[1] / pages)

    @property
    def _factor(self) -> float:
        return self.of_page / self._reported if self._reported else 1.0

    def _reported_pool(self) -> tuple[int, float]:
        """Bytes of the pool and of its used part, as openvino_genai counts them."""
        metrics = self._pipeline.get_metrics()
        pool = metrics.kv_cache_size_in_bytes
        return pool, metrics.cache_usage / 100 * pool
