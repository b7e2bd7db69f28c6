"""The steps of an export: fetch, convert the tokenizer, balance, export, compress, try, measure.

Importing this takes seconds: PyTorch, Optimum, NNCF and OpenVINO come with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ov_kvcrush.export import optimum
from ov_kvcrush.export.checkpoint.completeness import loading_required_to_fit
from ov_kvcrush.export.checkpoint.estimate import context_length
from ov_kvcrush.export.checkpoint.generation_settings import keep_generation_settings
from ov_kvcrush.export.checkpoint.source import download
from ov_kvcrush.export.ir import forget_calibration_text, write_kv_precision
from ov_kvcrush.export.kv_plan.calibration import plan_precisions
from ov_kvcrush.export.kv_plan.planner import Target
from ov_kvcrush.export.layer_shares import measure_layer_shares
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.export.plan_writer import write_plan
from ov_kvcrush.export.preflight import Preflight
from ov_kvcrush.export.tokenizer import convert_tokenizer
from ov_kvcrush.export.trial import can_try_out, geometry, try_on_paged_cache
from ov_kvcrush.export.value_balance.balance import balance_values
from ov_kvcrush.export.value_balance.projections import ValueProjections
from ov_kvcrush.export.workspace import Workspace
from ov_kvcrush.plan import Calibration, KVPlan, LayerGeometry, ValueBasis
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.progress import Progress
from ov_kvcrush.runtime.model.paged_model import PagedModel


@dataclass(frozen=True)
class Step:
    """A part of an export: what its user reads when it begins, and the work."""

    title: str
    run: Callable[[], None]


class ExportSteps:
    """One export's steps, and what they find out that goes into the plan.

    Args:
        options: what is asked for.
        checked: what was found out before the first step.
        workspace: where the model is made.
        progress: is told how far a step is, and what its user ought to know; not when one begins.
    """

    def __init__(
        self, options: ExportOptions, checked: Preflight, workspace: Workspace, progress: Progress
    ) -> None:
        self._options = options
        self._checked = checked
        self._workspace = workspace
        self._progress = progress
        self._context_length = context_length(checked.config)
        self._origin = options.model
        self._value_basis: ValueBasis | None = None
        self._model: PagedModel  # once it was tried on the paged cache
        self._layers: tuple[LayerGeometry, ...] = ()
        self._layer_shares: tuple[float, ...] = ()
        self._precisions: tuple[LayerPrecision, ...] = ()
        self._calibration: Calibration | None = None

    def in_order(self) -> list[Step]:
        """The steps that this export takes, to be run one after another.

        A step that cannot be done raises ConfigError or ExportError when it is run.
        """
        options, checked, precision = self._options, self._checked, self._options.kv_precision
        stored = f"{precision.key}/{precision.value}"
        steps = []
        if checked.source.downloads:
            size = f"{checked.source.download_bytes / 1e6:,.0f} MB"
            steps.append(Step(f"Download {size}", self._download))
        steps.append(Step("Convert the tokenizer", self._convert_tokenizer))
        if checked.projections:
            steps.append(Step("Balance the values", partial(self._balance, checked.projections)))
        steps.append(Step("Export to OpenVINO", self._export))
        if optimum.compresses_afterwards(checked.compression):
            title = f"Compress weights to {checked.compressed_format}"
            steps.append(Step(title, self._compress))
        steps.append(Step(f"Set the KV cache to {stored} and try it", self._set_and_try))
        if can_try_out(precision):
            steps.append(Step("Measure which layers look back", self._measure))
        if options.kv_plan:
            steps.append(Step("Give each layer its KV precision", self._plan_precisions))
        return steps

    def write_plan(self) -> KVPlan:
        """Write the KV plan beside the IR. All steps have been run."""
        return write_plan(
            self._workspace.model,
            self._checked.config,
            self._layers,
            self._precisions,
            self._layer_shares,
            self._calibration,
            self._value_basis,
        )

    def _download(self) -> None:
        download(self._options, self._checked.source, self._progress)

    def _convert_tokenizer(self) -> None:
        tokenizer = self._checked.tokenizer
        convert_tokenizer(self._options, tokenizer, self._workspace.model, self._progress)

    def _balance(self, projections: ValueProjections) -> None:
        self._origin, self._value_basis = balance_values(
            self._checked.source.folder,
            self._options.variant,
            projections,
            self._checked.kv_text,
            self._context_length,
            self._workspace,
            self._progress,
        )

    def _export(self) -> None:
        compression = self._checked.compression
        with loading_required_to_fit(self._options.model) as notes:
            optimum.export(self._options, self._origin, compression, self._workspace.model)
        for note in () if self._checked.weights_fit else notes:
            self._progress.note(note)

    def _compress(self) -> None:
        optimum.compress(self._options, self._checked.compression, self._workspace.model)

    def _set_and_try(self) -> None:
        folder, precision = self._workspace.model, self._options.kv_precision
        write_kv_precision(folder, precision)
        forget_calibration_text(folder)
        keep_generation_settings(self._checked.source.folder, self._checked.config, folder)
        if can_try_out(precision):
            self._model = try_on_paged_cache(folder, precision, self._progress)
            self._layers = self._model.layers
        else:
            self._progress.note(
                "this CPU has no bf16: the KV cache was set to it but not tried out"
            )
            self._layers = geometry(folder)
        self._precisions = (precision,) * len(self._layers)

    def _measure(self) -> None:
        self._layer_shares = measure_layer_shares(
            self._model, self._workspace.model, self._context_length, self._progress
        )

    def _plan_precisions(self) -> None:
        self._precisions, self._calibration = plan_precisions(
            self._workspace.model,
            self._layers,
            self._checked.precisions,
            self._checked.kv_text,
            Target(self._options.kv_bytes_per_token, self._options.max_drop),
            self._context_length,
            self._progress,
        )
