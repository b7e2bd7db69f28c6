"""The flags of a server of many replicas."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer

from ov_kvcrush.cli.options.flags import optional, with_flags
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.machine import num_processors
from ov_kvcrush.serve.replicas.settings import ReplicaSettings

_PANEL = "Replicas"
_ADDRESS = "RAY_ADDRESS"

_FLAGS: dict[str, tuple[str, type, str]] = {
    "ray": (
        "--ray",
        bool,
        "Serve by replicas, each with a model and a cache of its own, with Ray Serve: in the "
        "cluster that RAY_ADDRESS names, else in one that is started here.",
    ),
    "replicas": ("--replicas", int, "Always as many (default 1)."),
    "min_replicas": ("--min-replicas", int, "At least as many, more where requests wait."),
    "max_replicas": ("--max-replicas", int, "At most as many."),
}


@dataclass(frozen=True)
class ReplicaCounts:
    """How many replicas a command line asks for.

    Attributes:
        least: that are always there.
        most: that there may be.
    """

    least: int
    most: int


def read_replica_options(given: Mapping[str, Any]) -> ReplicaCounts | None:
    """The replicas that the flags ``given`` by name ask for; None for a server without Ray.

    Raises:
        ConfigError: flags contradict each other, or do nothing.
    """
    counts = {name: value for name, value in given.items() if name != "ray"}
    if not given.get("ray"):
        if counts:
            raise ConfigError(f"{SPELLING[min(counts)]} does nothing without --ray", "Give both.")
        return None
    if "replicas" in counts and len(counts) > 1:
        raise ConfigError(
            "--replicas is a fixed number, and --min-replicas and --max-replicas are bounds",
            "Give the one, or the other two.",
        )
    if "min_replicas" in counts and "max_replicas" not in counts:
        raise ConfigError("--min-replicas does nothing without --max-replicas", "Give both.")
    least = counts.get("replicas", counts.get("min_replicas", 1))
    return ReplicaCounts(least, counts.get("replicas", counts.get("max_replicas", least)))


def replica_settings(counts: ReplicaCounts, threads: int | None, port: int) -> ReplicaSettings:
    """What Ray is to be asked for.

    Args:
        counts: of replicas.
        threads: of each; None divides this machine's processors by the most replicas.
        port: to listen at.

    Raises:
        ConfigError: there are not as many processors, or they are not known; the port is not one.
    """
    if port == 0:
        raise ConfigError(
            "with --ray the port is the same on all nodes, so --port 0 cannot find a free one",
            "Give the number of a port.",
        )
    is_here, there = not os.environ.get(_ADDRESS), num_processors()
    if threads is None and not is_here:
        raise ConfigError(
            "how many processors the cluster's nodes have for a replica is not known here",
            "Give --threads.",
        )
    each = threads or max(1, there // max(1, counts.most))
    settings = ReplicaSettings(counts.least, counts.most, each)
    if is_here and settings.num_processors > there:
        raise ConfigError(
            f"{counts.most} replicas of {each} threads need {settings.num_processors} processors, "
            f"and there are {there}",
            f"Give fewer --threads or replicas, or the address of a cluster in {_ADDRESS}.",
        )
    return settings


def _declare(flag: str, kind: type, about: str) -> Any:
    number: dict[str, Any] = {} if kind is bool else {"metavar": "NUMBER", "min": 1}
    option = typer.Option(flag, help=about, rich_help_panel=_PANEL, show_default=False, **number)
    return optional(kind, option)


SPELLING = {name: flag for name, (flag, _, _) in _FLAGS.items()}
"""Flags by the names that errors have for them."""

replica_options = with_flags(
    "replicas",
    {name: _declare(*about) for name, about in _FLAGS.items()},
    read_replica_options,
    {name: flag for name, flag in SPELLING.items() if name != "ray"} | {"threads": "--threads"},
)
"""Decorates a command that takes ``replicas``: its command line gets the flags of replicas."""
