"""From Optimum's export to a model this package runs: KV precision, a trial, and the KV plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ov_kvcrush.errors import ExportError, OVKVCrushError
from ov_kvcrush.export.checkpoint.estimate import context_length
from ov_kvcrush.export.ir import read_weights, write_kv_precision
from ov_kvcrush.export.progress import Progress
from ov_kvcrush.plan import KVPlan, LayerGeometry, fingerprint
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_graph import read_geometry
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE, page_bytes
from ov_kvcrush.runtime.plugin.core import core

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


def can_try_out(precision: LayerPrecision) -> bool:
    """Whether this CPU stores a KV cache in ``precision``."""
    return precision.key != "bf16" or "BF16" in _cpu_capabilities()


def try_out(folder: Path, precision: LayerPrecision, progress: Progress) -> PagedModel | None:
    """Set the KV precision of the IR in ``folder``, and compile it on the paged cache as it is.

    Args:
        precision: of all layers, for whoever compiles the IR without a KV plan.

    Returns:
        The model, without a cache; None where this CPU cannot store one in ``precision``.

    Raises:
        ExportError: the plugin does not take the model, or does not do what the IR says.
    """
    write_kv_precision(folder, precision)
    _forget_calibration_text(folder)
    if not can_try_out(precision):
        progress.note("this CPU has no bf16: the KV cache was set to it but not tried out")
        return None
    properties = {}
    if precision.key == "f32":
        # OpenVINO keeps f32 only where it also computes in f32, which the IR cannot ask for.
        properties["INFERENCE_PRECISION_HINT"] = "f32"
        progress.note(
            "programs other than ov-kvcrush have to compile an f32 KV cache with "
            "INFERENCE_PRECISION_HINT=f32"
        )
    try:
        model = PagedModel(folder, properties=properties)
    except OVKVCrushError as error:
        raise _not_runnable(folder, error) from error
    compiled = model.precisions[0]
    if (compiled.key, compiled.value) != (precision.key, precision.value):
        raise ExportError(
            f"OpenVINO stores the KV cache in {compiled.key}/{compiled.value} although the model "
            f"says {precision.key}/{precision.value}",
            "Install the openvino release that ov-kvcrush names in its dependencies.",
        )
    expected = kv_bytes_per_token(model.layers, [precision] * len(model.layers))
    if model.kv_bytes_per_token != expected:
        raise ExportError(
            f"OpenVINO takes {model.kv_bytes_per_token:,.1f} bytes for a token, "
            f"not the {expected:,.1f} that the precision and group sizes mean",
            "Leave the group sizes out, or report this.",
        )
    return model


def write_plan(
    folder: Path,
    config: PretrainedConfig,
    layers: tuple[LayerGeometry, ...],
    precisions: tuple[LayerPrecision, ...],
    layer_shares: tuple[float, ...],
    calibration: dict[str, Any],
    value_basis: dict[str, Any],
) -> KVPlan:
    """Write the plan of the IR in ``folder``, which must not change any more.

    Args:
        layers: its geometry.
        precisions: by layer.
        layer_shares: by layer; empty where they were not measured.
        calibration: how the precisions came about; empty where they were given.
        value_basis: how the values' basis came about; empty where it is the checkpoint's own.
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


def kv_bytes_per_token(
    layers: Sequence[LayerGeometry], precisions: Sequence[LayerPrecision]
) -> float:
    """Bytes one token takes in the caches of ``layers``, with its share of each page's scales."""
    sizes = (sum(page_bytes(n, p)) for n, p in zip(layers, precisions, strict=True))
    return sum(sizes) / PAGE_SIZE


def geometry(folder: Path) -> tuple[LayerGeometry, ...]:
    """Attention geometry of the IR in ``folder``, by layer.

    Raises:
        ExportError: the paged engine cannot run the model.
    """
    try:
        return read_geometry(folder)
    except OVKVCrushError as error:
        raise _not_runnable(folder, error) from error


def _not_runnable(folder: Path, error: OVKVCrushError) -> ExportError:
    reason = error.message.replace(f"{folder}: ", "").replace(str(folder), "it")
    return ExportError(
        f"the model was exported, but the paged engine cannot run it: {reason}",
        "Nothing was kept. For use without ov-kvcrush: optimum-cli export openvino.",
    )


def _cpu_capabilities() -> list[str]:
    return list(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _forget_calibration_text(folder: Path) -> None:
    """Optimum notes the whole calibration text of the user's own in its configuration file."""
    path = folder / "openvino_config.json"
    if not path.exists():
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    settings = stored.get("quantization_config") or {}
    parts = [settings, settings.get("default_config") or {}]
    parts += (settings.get("quantization_configs") or {}).values()
    for part in parts:
        if isinstance(part.get("dataset"), list):
            part["dataset"] = None
    path.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # torch under another name (a nightly, a vendor's build)
    return found
