"""What a plan that is calibrated is to meet, and what it takes to calibrate one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export.texts.texts import Text
from ov_kvcrush.precisions import LayerPrecision


@dataclass(frozen=True)
class Target:
    """What a plan is to meet: one of the two, or neither.

    Attributes:
        kv_bytes_per_token: of all layers together, at most.
        max_drop: nats a token by which the model's output may diverge, at most.
    """

    kv_bytes_per_token: float | None = None
    max_drop: float | None = None


@dataclass(frozen=True)
class PrecisionSearch:
    """How the cache's precisions are to be found.

    Attributes:
        given: by layer, the user's own; empty to calibrate them.
        text: to calibrate on.
        target: what they have to meet.
    """

    given: tuple[LayerPrecision, ...]
    text: Text
    target: Target


def require_targets(
    kv_plan: str | None,
    kv_bytes_per_token: float | None,
    max_drop: float | None,
    others: Sequence[str] = (),
) -> None:
    """Refuse targets that no plan, or no single plan, is to meet.

    Args:
        kv_plan: ``auto``, a file of precisions, or None.
        kv_bytes_per_token: first target.
        max_drop: second target.
        others: flags that were given and are for a plan that is calibrated, too.

    Raises:
        ConfigError: they do not go together.
    """
    targets = {"--kv-bytes-per-token": kv_bytes_per_token, "--max-drop": max_drop}
    given = [flag for flag, value in targets.items() if value is not None] + [*others]
    if given and kv_plan != "auto":
        raise ConfigError(f"{given[0]} is for a plan that is calibrated", "Add --kv-plan auto.")
    if kv_bytes_per_token is not None and max_drop is not None:
        raise ConfigError(
            "--kv-bytes-per-token and --max-drop are two targets for one plan",
            "Give the one that matters; the other is what comes out.",
        )
    for flag, value in targets.items():
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{flag} is {value:g}, not above 0")


def require_nncf() -> None:
    """Refuse to calibrate precisions without the package that collects what storing changes.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("nncf") is None:
        raise ConfigError(
            "calibrating the precisions of the KV cache needs the package nncf, which is missing",
            'Run: pip install "nncf>=3.4,<3.5". The gate and the layer shares do not need it.',
        )
