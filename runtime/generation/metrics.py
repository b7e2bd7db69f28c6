"""What a generation cost: TTFT, time per token, KV bytes, tokens kept and evicted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

_TIMES = ("arrived", "token_times", "inference_times", "sampling_times", "compression_time")


@dataclass
class GenerationMetrics:
    """Costs of one generated sequence; filled in by the engine while it runs.

    Times are seconds. KV sizes are of this sequence when it finished: ``kv_tokens`` a KV head holds
    on average, ``kv_bytes`` of the pages it holds in all layers, ``kv_bytes_full`` of the pages its
    tokens would take if nothing were evicted; ``kv_bytes_peak`` is the most it ever held.

    Attributes:
        arrived: clock when the request came in.
        token_times: clock when each token was ready.
        inference_times: seconds of each inference it took part in, by the clock when it began.
        sampling_times: seconds of each step's sampling it took part in, likewise; none where the
            engine does not tell.
        num_prompt_tokens: tokens of the prompt.
        num_reused_tokens: those whose keys and values were already in the cache.
        num_drafted_tokens: tokens that prompt lookup has guessed.
        num_accepted_tokens: those of them that were right, and so came with the step before.
        num_evicted_tokens: tokens of which the average KV head keeps no key and value.
        num_preemptions: how often the cache had to be given up and computed again.
        compression_time: spent choosing and moving tokens.
        restarted: why a chat's cache could not be continued; empty if it was, or none was there.
    """

    arrived: float = 0.0
    token_times: list[float] = field(default_factory=list)
    inference_times: dict[float, float] = field(default_factory=dict)
    sampling_times: dict[float, float] = field(default_factory=dict)
    num_prompt_tokens: int = 0
    num_reused_tokens: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    kv_tokens: int = 0
    kv_bytes: int = 0
    kv_bytes_full: int = 0
    kv_bytes_peak: int = 0
    num_evicted_tokens: int = 0
    num_preemptions: int = 0
    compression_time: float = 0.0
    restarted: str = ""

    @property
    def num_generated_tokens(self) -> int:
        """Tokens generated."""
        return len(self.token_times)

    @property
    def ttft(self) -> float:
        """Time to first token; 0 before there is one."""
        return self.token_times[0] - self.arrived if self.token_times else 0.0

    @property
    def tpot(self) -> float:
        """Mean time per token after the first; 0 where there is none."""
        if len(self.token_times) < 2:
            return 0.0
        return (self.token_times[-1] - self.token_times[0]) / (len(self.token_times) - 1)

    @property
    def duration(self) -> float:
        """From arrival to the last token."""
        return self.token_times[-1] - self.arrived if self.token_times else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON values, times in milliseconds."""
        body = asdict(self)
        for name in _TIMES:
            del body[name]
        return {
            **body,
            "num_generated_tokens": self.num_generated_tokens,
            "ttft_ms": 1e3 * self.ttft,
            "tpot_ms": 1e3 * self.tpot,
            "duration_ms": 1e3 * self.duration,
            "inference_ms": 1e3 * sum(self.inference_times.values()),
            "compression_ms": 1e3 * self.compression_time,
        }
