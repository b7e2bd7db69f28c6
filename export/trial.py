"""The exported IR tried on the paged cache."""

from __future__ import annotations

from pathlib import Path

from ov_kvcrush.errors import ExportError, OVKVCrushError
from ov_kvcrush.export.subject import Subject, compile_subject
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.progress import Progress
from ov_kvcrush.runtime.model.paged_graph import read_geometry
from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token
from ov_kvcrush.runtime.plugin.core import core


def can_try_out(precision: LayerPrecision) -> bool:
    """Whether this CPU stores a KV cache in ``precision``."""
    return precision.key != "bf16" or "BF16" in _cpu_capabilities()


def try_on_paged_cache(folder: Path, precision: LayerPrecision, progress: Progress) -> Subject:
    """Compile the IR in ``folder`` on the paged cache, as whoever has no KV plan would.

    Nothing is written.

    Args:
        folder: exported model.
        precision: that its IR says its cache is stored in; one that :func:`can_try_out`.
        progress: is told what other programs have to do for that precision.

    Returns:
        The compiled model, without a cache, to be measured.

    Raises:
        ExportError: the plugin does not take the model, or does not do what the IR says.
    """
    properties = {}
    if precision.key == "f32":
        # OpenVINO keeps f32 only where it also computes in f32, which the IR cannot ask for.
        properties["INFERENCE_PRECISION_HINT"] = "f32"
        progress.note(
            "programs other than ov-kvcrush have to compile an f32 KV cache with "
            "INFERENCE_PRECISION_HINT=f32"
        )
    try:
        subject = compile_subject(folder, properties=properties)
    except OVKVCrushError as error:
        raise _not_runnable(folder, error) from error
    model = subject.model
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
    return subject


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
