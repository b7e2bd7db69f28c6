"""What became of requests: counted for whoever watches, the last ones remembered; never a text."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ov_kvcrush.runtime.engine_metrics import TTFT_BOUNDS, Histogram

CLIENT_GONE = 499
"""Status of a request whose client left before it was told one; nginx's number for it."""

_NUM_LAST = 10


@dataclass(eq=False)
class RequestRecord:
    """One request, filled in while it is answered.

    Attributes:
        id: that the answer's ``X-Request-Id`` has.
        endpoint: its path.
        key: name of the API key, empty without one.
        began_at: ``time.time()``.
        status: HTTP's.
        num_prompt_tokens: of its prompt.
        num_cached_tokens: those that were in the cache.
        num_generated_tokens: of all its answers.
        ttft: seconds to the first token; None before it.
        seconds: to the last byte; None before it.
        end: ``stop``, ``length``, ``tool_calls``, ``cancelled`` or ``error``; empty where nothing
            was to be generated, and before it ends.
        rejected: why it was not taken: ``busy``, ``queue_timeout``, ``context``, ``key``, ``body``.
        restarted: why the cache of its chat could not be gone on from.
    """

    id: str
    endpoint: str
    key: str = ""
    began_at: float = 0.0
    status: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    ttft: float | None = None
    seconds: float | None = None
    end: str = ""
    rejected: str = ""
    restarted: str = ""


@dataclass
class RequestLog:
    """Sums over the requests that have ended, the last of them, and those that are answered.

    For the event loop's thread.

    Attributes:
        requests: how many by endpoint and status.
        ends: how many by ``end``.
        rejected: how many by why.
        num_restarts: chats whose cache could not be gone on from.
        seconds: from a generation's request to its last byte.
        queue_seconds: from there to its first token.
        last: the last ones, the newest first.
        open: those that are answered, the oldest first.
    """

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    num_restarts: int = 0
    seconds: Histogram = field(default_factory=lambda: Histogram(TTFT_BOUNDS))
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(TTFT_BOUNDS))
    last: deque[RequestRecord] = field(default_factory=lambda: deque(maxlen=_NUM_LAST))
    open: list[RequestRecord] = field(default_factory=list)

    @contextmanager
    def answering(self, record: RequestRecord) -> Iterator[None]:
        """Have ``record`` among those that are answered, until the end of the block."""
        self.open.append(record)
        try:
            yield
        finally:
            self.open.remove(record)

    def add(self, record: RequestRecord) -> None:
        """Take in a request that has ended."""
        self.requests[record.endpoint, record.status] += 1
        if record.rejected:
            self.rejected[record.rejected] += 1
        self.num_restarts += bool(record.restarted)
        if record.end:
            self.ends[record.end] += 1
            self.last.appendleft(record)
            if record.seconds is not None:
                self.seconds.add(record.seconds)
            if record.ttft is not None:
                self.queue_seconds.add(record.ttft)
