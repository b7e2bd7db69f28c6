"""The export, step by step: check, fetch, convert the tokenizer, export, compress, try, measure."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.export.progress import Progress, Silent
from ov_kvcrush.plan import KVPlan

if TYPE_CHECKING:
    from ov_kvcrush.export.preflight import Preflight

_INSTALL = 'Run: pip install "ov-kvcrush[export]"'


def export_model(options: ExportOptions, progress: Progress | None = None) -> KVPlan:
    """Export ``options.model`` to ``options.output``; the folder appears whole or not at all.

    Returns:
        The KV plan, as it lies in the folder.

    Raises:
        ConfigError: options that contradict each other or the model.
        ExportError: the export cannot start, or failed.
    """
    progress = progress or Silent()
    _require_packages()
    from ov_kvcrush.export import preflight
    from ov_kvcrush.export.checkpoint.source import download
    from ov_kvcrush.export.workspace import open_workspace, reclaim

    # Before the output is checked: a model may have to be put back there.
    reclaim(options.output.resolve())
    checked = preflight.check(options, progress)

    # Seconds of imports: not before the checks that need none of them have passed.
    from ov_kvcrush.export import optimum
    from ov_kvcrush.export.checkpoint.estimate import context_length
    from ov_kvcrush.export.layer_shares import measure_layer_shares
    from ov_kvcrush.export.plan_writer import write_plan
    from ov_kvcrush.export.trial import can_try_out, geometry, try_out

    precision = options.kv_precision
    length = context_length(checked.config)
    compresses = optimum.compresses_afterwards(checked.compression)
    measures = can_try_out(precision)
    optional = (
        checked.source.downloads,
        options.balance_values,
        compresses,
        measures,
        options.kv_plan,
    )
    steps = _Steps(progress, 3 + sum(map(bool, optional)))
    with open_workspace(options.output.resolve()) as workspace:
        if checked.source.downloads:
            steps.begin(f"Download {checked.source.download_bytes / 1e6:,.0f} MB")
            download(options, checked.source, progress)
        steps.begin("Convert the tokenizer")
        optimum.convert_tokenizer(options, checked.source.folder, workspace.model)
        origin, value_basis = options.model, dict[str, Any]()
        if checked.projections:
            from ov_kvcrush.export.value_balance.balance import balance_values

            steps.begin("Balance the values")
            origin, value_basis = balance_values(
                checked.source.folder,
                options.variant,
                checked.projections,
                checked.kv_text,
                length,
                workspace,
                progress,
            )
        steps.begin("Export to OpenVINO")
        optimum.export(options, origin, checked.compression, workspace.model)
        if compresses:
            steps.begin(f"Compress weights to {checked.compressed_format}")
            optimum.compress(options, checked.compression, workspace.model)
        steps.begin(f"Set the KV cache to {precision.key}/{precision.value} and try it")
        model = try_out(workspace.model, precision, progress)
        layers = geometry(workspace.model) if model is None else model.layers
        shares: tuple[float, ...] = ()
        if model is not None:
            steps.begin("Measure which layers look back")
            shares = measure_layer_shares(model, workspace.model, length, progress)
        precisions, calibration = (precision,) * len(layers), dict[str, Any]()
        if options.kv_plan:
            from ov_kvcrush.export.kv_plan.calibration import plan_precisions
            from ov_kvcrush.export.kv_plan.planner import Target

            steps.begin("Give each layer its KV precision")
            precisions, calibration = plan_precisions(
                workspace.model,
                layers,
                checked.precisions,
                checked.kv_text,
                Target(options.kv_bytes_per_token, options.max_drop),
                length,
                progress,
            )
        plan = write_plan(
            workspace.model, checked.config, layers, precisions, shares, calibration, value_basis
        )
        workspace.publish()
    return plan


def estimate_model(options: ExportOptions, progress: Progress | None = None) -> KVPlan:
    """The plan ``export_model`` would make, estimated without exporting; nothing is written.

    All checks are made that come before an export. ``fingerprint`` is empty, and so is ``layers``
    where the configuration does not tell the geometry.

    Raises:
        ConfigError, ExportError: as :func:`export_model`.
    """
    _require_packages()
    from ov_kvcrush.export import preflight

    progress = progress or Silent()
    checked = preflight.check(options, progress)

    from ov_kvcrush.export.checkpoint.estimate import context_length
    from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token

    if options.kv_plan == "auto":
        progress.note("what --kv-plan auto chooses is known after the export: shown is u8 for all")
    precisions = checked.precisions or (options.kv_precision,) * len(checked.layers)
    return KVPlan(
        model_type=checked.config.model_type,
        fingerprint="",
        layers=checked.layers,
        precisions=precisions,
        kv_bytes_per_token=kv_bytes_per_token(checked.layers, precisions),
        context_length=context_length(checked.config),
        value_basis={"method": "balanced"} if options.balance_values else {},
        weights=_estimated_weights(options, checked),
    )


def _estimated_weights(options: ExportOptions, checked: Preflight) -> dict[str, object]:
    kind = checked.compressed_format or options.weight_format
    stored = str(checked.config.dtype).removeprefix("torch.")
    kind = kind or {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(
        stored, "as stored"
    )
    return {"format": kind, "size_bytes": checked.weight_bytes}


class _Steps:
    """Numbers the steps of an export."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._number = progress, total, 0

    def begin(self, title: str) -> None:
        self._number += 1
        self._progress.step(self._number, self._total, title)


def _require_packages() -> None:
    for name in ("torch", "transformers", "nncf", "optimum", "optimum.intel"):
        if find_spec(name) is None:
            raise ExportError(f"exporting needs the package {name}, which is missing", _INSTALL)
