"""What a calibration is asked for: one frozen set of options, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.export.kv_plan.target import require_targets

SHARES, GATE, KV_PLAN = "shares", "gate", "kv-plan"
MEASURES = (SHARES, GATE, KV_PLAN)
"""What can be measured, in the order it is done."""


@dataclass(frozen=True)
class CalibrationOptions:
    """One calibration.

    Attributes:
        folder: OpenVINO model and tokenizer. The plan and the gate appear in it whole, at the end,
            or not at all.
        only: names of ``MEASURES``; the others stay as they are. Empty for layer shares and gate,
            and the precisions where ``kv_plan`` asks for them.
        texts: files to fit the gate on before the package's own texts, and to calibrate precisions
            on instead of them.
        kv_plan, kv_bytes_per_token, max_drop: as in an export.

    Raises:
        ConfigError: a value is unknown, or options contradict each other.
    """

    folder: Path
    only: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    kv_plan: str | None = None
    kv_bytes_per_token: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in MEASURES:
                raise ConfigError(f"--only {name!r} is not known", did_you_mean(name, MEASURES))
        if self.kv_plan and self.only and KV_PLAN not in self.only:
            raise ConfigError(
                f"--only {' --only '.join(self.only)} leaves the precisions as they are, and "
                f"--kv-plan {self.kv_plan} asks for others",
                "Add --only kv-plan, or leave --kv-plan out.",
            )
        require_targets(self.chosen_plan, self.kv_bytes_per_token, self.max_drop)

    @property
    def measures(self) -> frozenset[str]:
        """Which of ``MEASURES`` are wanted."""
        if self.only:
            return frozenset(self.only)
        return frozenset(MEASURES if self.kv_plan else (SHARES, GATE))

    @property
    def chosen_plan(self) -> str | None:
        """``auto``, a file of precisions, or None where they stay."""
        return self.kv_plan or ("auto" if KV_PLAN in self.only else None)
