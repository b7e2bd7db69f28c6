"""What came out: every turn of every side, medians, and ratios of turns that belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ov_kvcrush.benchmark.contestants import is_ours
from ov_kvcrush.benchmark.grid import Group
from ov_kvcrush.benchmark.measurement import Measurement, typical
from ov_kvcrush.benchmark.roofline import Roofline
from ov_kvcrush.benchmark.workload import Workload


@dataclass(frozen=True)
class Metric:
    """A figure of a turn.

    Attributes:
        title: for people.
        unit: of what is shown.
        factor: of what is shown to what is measured.
        of: the figure of a measurement; None where it has none.
        less_is_better: whether it is a cost.
    """

    title: str
    unit: str
    factor: float
    of: Callable[[Measurement], float | None]
    less_is_better: bool = True


METRICS = {
    "ttft": Metric("TTFT", "ms", 1e3, lambda one: typical(one.ttft)),
    "tpot": Metric("TPOT", "ms", 1e3, lambda one: typical(one.tpot) or None),
    "next_ttft": Metric("next TTFT", "ms", 1e3, lambda one: typical(one.next_ttft)),
    "throughput": Metric("throughput", "tokens/s", 1.0, lambda one: one.throughput, False),
    "requests_per_minute": Metric(
        "requests", "/min", 1.0, lambda one: one.requests_per_minute, False
    ),
    "kv_bytes": Metric("KV", "MB", 1e-6, lambda one: float(one.kv_bytes)),
    "kv_bytes_peak": Metric("KV peak", "MB", 1e-6, lambda one: float(one.kv_bytes_peak)),
    "resident_bytes": Metric("resident", "MB", 1e-6, lambda one: float(one.resident_bytes)),
}
"""By their names in JSON; those of several requests are the median over them."""


@dataclass(frozen=True)
class Ratio:
    """One side's figure over another's: the median of each turn's own ratio, least and most."""

    median: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """JSON values."""
        return asdict(self)


def paired_ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Ratio | None:
    """Ours / theirs of each turn: what slows the machine for a while slows both, and cancels out.

    Args:
        ours: by turn; None where there is no figure.
        theirs: the same of the other side.

    Returns:
        None where no turn has both.
    """
    ratios = [a / b for a, b in zip(ours, theirs, strict=True) if a is not None and b]
    return Ratio(median(ratios), min(ratios), max(ratios)) if ratios else None


@dataclass(frozen=True)
class Cell:
    """A workload done by the sides of a group.

    Attributes:
        group: whose sides.
        workload: what they did.
        turns: by the side's engine, one measurement a turn; all have as many.
    """

    group: Group
    workload: Workload
    turns: Mapping[str, Sequence[Measurement]]

    @property
    def engines(self) -> list[str]:
        """Names of the sides."""
        return list(self.turns)

    @property
    def reference(self) -> str:
        """The side that is divided by others: ours where it takes part."""
        return next(filter(is_ours, self.engines), self.engines[0])

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.workload.title}; {self.group.title}"

    def side_title(self, engine: str) -> str:
        """The side's name for people, with its total where it evicts."""
        return next(setup.title for setup in self.group.setups if setup.engine == engine)

    def values(self, engine: str, metric: str) -> list[float | None]:
        """A figure by turn."""
        return [METRICS[metric].of(one) for one in self.turns[engine]]

    def typical(self, engine: str, metric: str) -> float | None:
        """Its median over the turns; None where there is none."""
        return typical(tuple(v for v in self.values(engine, metric) if v is not None))

    def ratio(self, engine: str, metric: str) -> Ratio | None:
        """The reference's figure over that of ``engine``."""
        return paired_ratio(self.values(self.reference, metric), self.values(engine, metric))

    def parts(self, engine: str) -> dict[str, float]:
        """Shares of the whole time by part, over all turns; empty where they are not told."""
        sums: dict[str, float] = {}
        for one in self.turns[engine]:
            for name, seconds in one.parts.items():
                sums[name] = sums.get(name, 0.0) + seconds
        total = sum(sums.values())
        return {name: seconds / total for name, seconds in sums.items()} if total else {}

    def least_tpot(self, engine: str, roofline: Roofline) -> float | None:
        """Seconds a token that reading weights and KV cache alone would take.

        With each cache as it is at its end, and as many sequences as were computed together: in a
        small pool some wait for others.
        """
        held = self.typical(engine, "kv_bytes")
        if held is None:
            return None
        num_requests = self.workload.num_requests
        known = [one.mean_concurrency for one in self.turns[engine]]
        together = typical(tuple(n for n in known if n is not None))
        return roofline.step_seconds(held / num_requests * (together or num_requests))

    def of_roofline(self, engine: str, roofline: Roofline) -> float | None:
        """Part of the measured time per token that reading would take: 1 is as fast as can be."""
        tpot, least = self.typical(engine, "tpot"), self.least_tpot(engine, roofline)
        return None if not tpot or least is None else least / tpot

    def to_dict(self, roofline: Roofline | None, with_turns: bool) -> dict[str, Any]:
        """JSON values."""
        return {
            "workload": asdict(self.workload),
            "precision": "/".join(self.group.precision) if self.group.precision else None,
            "max_cache_size": self.group.max_cache_size,
            "sides": [self._side(name, roofline, with_turns) for name in self.engines],
            "ratios": [
                {
                    "of": self.reference,
                    "to": name,
                    **{metric: _as_dict(self.ratio(name, metric)) for metric in METRICS},
                }
                for name in self.engines
                if name != self.reference
            ],
        }

    def _side(self, engine: str, roofline: Roofline | None, with_turns: bool) -> dict[str, Any]:
        setup = next(setup for setup in self.group.setups if setup.engine == engine)
        body: dict[str, Any] = {
            "engine": engine,
            "name": setup.title,
            "pool_size": setup.pool_size,
            "max_num_batched_tokens": setup.max_num_batched_tokens,
            "kv_cache_config": setup.cache_config().to_dict(),
            **{metric: self.typical(engine, metric) for metric in METRICS},
            "parts": self.parts(engine),
        }
        if roofline is not None:
            body["least_tpot"] = self.least_tpot(engine, roofline)
            body["of_roofline"] = self.of_roofline(engine, roofline)
        if with_turns:
            body["turns"] = [one.to_dict() for one in self.turns[engine]]
        return body


def _as_dict(ratio: Ratio | None) -> dict[str, float] | None:
    return None if ratio is None else ratio.to_dict()
