"""The KV plan of an IR, put together; and plan and gate written beside it, both or neither."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ov_kvcrush.export.ir import read_makers, read_weights
from ov_kvcrush.files import replacing
from ov_kvcrush.gate import GATE_FILE, Gate
from ov_kvcrush.model_folder import context_length, fingerprint, model_type
from ov_kvcrush.plan import PLAN_FILE, KVPlan, LayerGeometry
from ov_kvcrush.plan_records import Calibration, Measurement, ValueBasis
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token

_PACKAGES = (
    "ov-kvcrush",
    "openvino",
    "openvino-tokenizers",
    "optimum-intel",
    "nncf",
    "transformers",
    "torch",
)


@dataclass(frozen=True)
class Calibrated:
    """A plan that is not written yet, and the gate that goes with it.

    Attributes:
        plan: of the IR.
        gate: for it; None where there is none, or the one that lies beside it stays.
        keeps_gate: whether a gate that lies beside the IR stays.
    """

    plan: KVPlan
    gate: Gate | None = None
    keeps_gate: bool = False

    def write(self, folder: Path) -> None:
        """Write both into ``folder``: neither takes its place before both are on the disk.

        Between the two renames a power cut may leave the new gate with the old plan: two whole
        files, each of which can be read.

        Raises:
            OSError: they cannot be written; the folder is what it was.
        """
        with ExitStack() as streams:
            # Left in the opposite order: the plan, which tells of the gate, comes last.
            plan = streams.enter_context(replacing(folder / PLAN_FILE))
            self.plan.write(plan)
            if self.gate is not None:
                gate = streams.enter_context(replacing(folder / GATE_FILE))
                self.gate.write(gate)
            plan.flush()
            os.fsync(plan.fileno())
        if self.gate is None and not self.keeps_gate:
            (folder / GATE_FILE).unlink(missing_ok=True)


def make_plan(
    folder: Path,
    layers: tuple[LayerGeometry, ...],
    precisions: tuple[LayerPrecision, ...],
    head_shares: tuple[tuple[float, ...], ...] = (),
    share_measurement: Measurement | None = None,
    gate_measurement: Measurement | None = None,
    calibration: Calibration | None = None,
    value_basis: ValueBasis | None = None,
    made_here: bool = False,
) -> KVPlan:
    """The plan of the IR in ``folder``, which must not change any more.

    Args:
        folder: exported model.
        layers: its geometry.
        precisions: by layer.
        head_shares: by layer and KV head; empty where they were not measured.
        share_measurement: how they were measured.
        gate_measurement: how the gate was fitted; None where there is none.
        calibration: how the precisions were chosen; None where they were given.
        value_basis: how the values' basis was found; None where it is the checkpoint's own.
        made_here: whether the IR was made by the packages that are installed; else what made it is
            what it notes itself.
    """
    return KVPlan(
        model_type=model_type(folder),
        fingerprint=fingerprint(folder),
        layers=layers,
        precisions=precisions,
        kv_bytes_per_token=kv_bytes_per_token(layers, precisions),
        context_length=context_length(folder),
        head_shares=head_shares,
        calibration=calibration,
        value_basis=value_basis,
        share_measurement=share_measurement,
        gate_measurement=gate_measurement,
        weights=read_weights(folder),
        made_with=_versions() if made_here else {**_versions("ov-kvcrush"), **read_makers(folder)},
    )


def _versions(*packages: str) -> dict[str, str]:
    """Of ``packages``, or of all that can have made a model; what is not installed is left out."""
    found = {}
    for package in packages or _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # torch under another name (a nightly, a vendor's build)
    return found
