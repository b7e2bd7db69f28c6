"""The exported IR tried on the paged cache."""

from __future__ import annotations

import json
from pathlib import Path

from ov_kvcrush.errors import ExportError, OVKVCrushError
from ov_kvcrush.export.ir import write_kv_precision
from ov_kvcrush.export.progress import Progress
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model.paged_graph import read_geometry
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token
from ov_kvcrush.runtime.plugin.core import core


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
