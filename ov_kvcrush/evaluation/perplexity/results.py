"""What came out: nats a token of each passage, with each cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ov_kvcrush.evaluation.configurations import Configuration


@dataclass(frozen=True)
class Told:
    """One passage with one cache.

    Attributes:
        budget: tokens that may stay; 0 is all.
        nats: mean negative log likelihood of a token that counts.
        kept: tokens that a KV head held on average at the end.
        kv_bytes: of the cache then.
    """

    budget: int
    nats: float
    kept: float
    kv_bytes: int


@dataclass(frozen=True)
class PassageResult:
    """One passage with every cache.

    Attributes:
        id: of the passage.
        task: of the passage.
        num_tokens: that were read.
        told: by configuration.
    """

    id: str
    task: str
    num_tokens: int
    told: dict[Configuration, Told]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "id": self.id,
            "task": self.task,
            "num_tokens": self.num_tokens,
            "told": [
                {
                    "name": configuration.name,
                    "budget": told.budget,
                    "nats": told.nats,
                    "kept": told.kept,
                    "kv_bytes": told.kv_bytes,
                }
                for configuration, told in self.told.items()
            ],
        }


@dataclass(frozen=True)
class PerplexityResults:
    """All passages that were finished; each counts as much as any other.

    Attributes:
        configurations: the full cache first.
        passages: in the order in which they were read.
    """

    configurations: tuple[Configuration, ...]
    passages: tuple[PassageResult, ...]

    def nats(self, configuration: Configuration) -> list[float]:
        """By passage."""
        return [passage.told[configuration].nats for passage in self.passages]

    def perplexity(self, configuration: Configuration) -> float:
        """The exponential of the mean nats a token."""
        return math.exp(fmean(self.nats(configuration)))

    def kept(self, configuration: Configuration) -> float:
        """Tokens at the end, mean over passages."""
        return fmean(passage.told[configuration].kept for passage in self.passages)

    def kv_bytes(self, configuration: Configuration) -> float:
        """The same of bytes."""
        return fmean(passage.told[configuration].kv_bytes for passage in self.passages)

    def pairs(self, policy: str) -> Sequence[tuple[Configuration, Configuration]]:
        """Each configuration with that of ``policy`` at the same budget and precision."""
        others = {(c.keep, c.precision): c for c in self.configurations if c.policy == policy}
        found = []
        for ours in self.configurations:
            theirs = others.get((ours.keep, ours.precision)) or others.get((None, ours.precision))
            if theirs is not None and theirs != ours:
                found.append((ours, theirs))
        return found
