"""How many replicas of a server there are, and what each computes with."""

from __future__ import annotations

from dataclasses import dataclass

from ov_kvcrush.errors import ConfigError


@dataclass(frozen=True)
class ReplicaSettings:
    """Of one server; each replica has a model, a cache and limits of its own.

    Attributes:
        min_replicas: that are there whatever there is to do.
        max_replicas: that there may be; as many as ``min_replicas`` is a fixed number.
        threads: that each computes with, and processors that Ray keeps free for it.

    Raises:
        ConfigError: a number is below 1, or the most are fewer than the least.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("min_replicas", "max_replicas", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", "It has to be 1 or more.")
        if self.max_replicas < self.min_replicas:
            raise ConfigError(
                f"max_replicas is {self.max_replicas}, and min_replicas {self.min_replicas}",
                "The most have to be at least as many as the least.",
            )

    @property
    def num_processors(self) -> int:
        """That all replicas together may take."""
        return self.max_replicas * self.threads

    @property
    def is_fixed(self) -> bool:
        """Whether there are always as many."""
        return self.min_replicas == self.max_replicas
