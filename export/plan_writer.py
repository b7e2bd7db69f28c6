"""The KV plan of an export, put together and written beside its IR."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ov_kvcrush.export.checkpoint.estimate import context_length
from ov_kvcrush.export.ir import read_weights
from ov_kvcrush.model_folder import fingerprint
from ov_kvcrush.plan import Calibration, KVPlan, LayerGeometry, ValueBasis
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_PACKAGES = (
    "ov-kvcrush",
    "openvino",
    "openvino-tokenizers",
    "optimum-intel",
    "nncf",
    "transformers",
    "torch",
)


def write_plan(
    folder: Path,
    config: PretrainedConfig,
    layers: tuple[LayerGeometry, ...],
    precisions: tuple[LayerPrecision, ...],
    layer_shares: tuple[float, ...],
    calibration: Calibration | None,
    value_basis: ValueBasis | None,
) -> KVPlan:
    """Write the plan of the IR in ``folder``, which must not change any more.

    Args:
        layers: its geometry.
        precisions: by layer.
        layer_shares: by layer; empty where they were not measured.
        calibration: how the precisions were chosen; None where they were given.
        value_basis: how the values' basis was found; None where it is the checkpoint's own.
    """
    plan = KVPlan(
        model_type=config.model_type,
        fingerprint=fingerprint(folder),
        layers=layers,
        precisions=precisions,
        kv_bytes_per_token=kv_bytes_per_token(layers, precisions),
        context_length=context_length(config),
        layer_shares=layer_shares,
        calibration=calibration,
        value_basis=value_basis,
        weights=read_weights(folder),
        made_with=_versions(),
    )
    plan.save(folder)
    return plan


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # torch under another name (a nightly, a vendor's build)
    return found
