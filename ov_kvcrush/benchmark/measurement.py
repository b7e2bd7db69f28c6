"""What one turn of one side took: times, memory, and where the time went."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One workload done once. Times are seconds, from the moment all its requests arrived.

    Attributes:
        num_requests: of the workload.
        ttft: by request whose answer is whole, time to first token, waiting included.
        tpot: likewise, mean time per token after the first.
        seconds: to the last token of the last answer.
        cpu_seconds: of all threads of the side's process meanwhile.
        num_generated: tokens of whole answers.
        kv_bytes: keys and values of all sequences, each as it is behind its own last token; more
            than ever was held at a time where some waited for others.
        kv_bytes_peak: the most they ever hold.
        resident_bytes: the most memory the side's process has resident meanwhile.
        next_ttft: by request, time to first token of its chat's next turn; empty without one.
        parts: seconds by part of the work, ``rest`` included; empty where the side does not tell.
        num_preemptions: how often a sequence lost its cache to others; None where the side does
            not tell.
        num_computed_tokens: that were read in all, those read again included; likewise.
        mean_concurrency: sequences computed together, by time; likewise.
    """

    num_requests: int
    ttft: tuple[float, ...]
    tpot: tuple[float, ...]
    seconds: float
    cpu_seconds: float
    num_generated: int
    kv_bytes: int
    kv_bytes_peak: int
    resident_bytes: int
    next_ttft: tuple[float, ...] = ()
    parts: dict[str, float] = field(default_factory=dict)
    num_preemptions: int | None = None
    num_computed_tokens: int | None = None
    mean_concurrency: float | None = None

    @property
    def throughput(self) -> float:
        """Tokens generated a second, reading included."""
        return self.num_generated / self.seconds

    @property
    def requests_per_minute(self) -> float:
        """Whole answers a minute."""
        return 60 * len(self.ttft) / self.seconds

    @property
    def requests_per_cpu_minute(self) -> float:
        """The same by the processors' time, which other processes slow less."""
        return 60 * len(self.ttft) / self.cpu_seconds if self.cpu_seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **asdict(self),
            "num_completed": len(self.ttft),
            "throughput": self.throughput,
            "requests_per_minute": self.requests_per_minute,
            "requests_per_cpu_minute": self.requests_per_cpu_minute,
        }


def times_by_request(
    token_times: list[list[float]], num_tokens: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """TTFT and TPOT of the requests that have ``num_tokens`` tokens.

    Args:
        token_times: by request, seconds from arrival to each of its tokens.
        num_tokens: of a whole answer.
    """
    whole = [times for times in token_times if len(times) >= num_tokens]
    return (
        tuple(times[0] for times in whole),
        tuple((times[-1] - times[0]) / max(1, len(times) - 1) for times in whole),
    )


def typical(values: tuple[float, ...]) -> float | None:
    """The median; None of nothing."""
    return median(values) if values else None


def mean_by_time(steps: list[tuple[float, int]]) -> float | None:
    """The mean of counts that held for so many seconds each; None of nothing."""
    total = sum(seconds for seconds, _ in steps)
    return sum(seconds * count for seconds, count in steps) / total if total else None
