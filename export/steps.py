"""The steps of an export: fetch, convert the tokenizer, balance, export, compress, try, calibrate.

Importing this takes seconds: PyTorch, Optimum, NNCF and OpenVINO come with it.
"""

from __future__ import annotations

from functools import partial

from ov_kvcrush.export import optimum
from ov_kvcrush.export.checkpoint.completeness import loading_required_to_fit
from ov_kvcrush.export.checkpoint.estimate import context_length
from ov_kvcrush.export.checkpoint.generation_settings import keep_generation_settings
from ov_kvcrush.export.checkpoint.source import download
from ov_kvcrush.export.ir import forget_calibration_text
from ov_kvcrush.export.last_steps import LastSteps
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.export.preflight import Preflight
from ov_kvcrush.export.step import Step
from ov_kvcrush.export.tokenizer import convert_tokenizer
from ov_kvcrush.export.value_balance.balance import balance_values
from ov_kvcrush.export.value_balance.projections import ValueProjections
from ov_kvcrush.export.workspace import Workspace
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.plan_records import ValueBasis
from ov_kvcrush.progress import Progress


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
        self._last = LastSteps(
            options,
            checked.precisions,
            checked.kv_text,
            self._context_length,
            workspace.model,
            progress,
        )

    def in_order(self) -> list[Step]:
        """The steps that this export takes, to be run one after another.

        A step that cannot be done raises ConfigError or ExportError when it is run.
        """
        checked = self._checked
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
        return steps + self._last.in_order()

    def write_plan(self) -> KVPlan:
        """Write the KV plan, and a gate if there is one, beside the IR; all steps have been run."""
        return self._last.write_plan(self._value_basis)

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
        if not optimum.compresses_afterwards(compression):
            self._keep_settings()

    def _compress(self) -> None:
        optimum.compress(self._options, self._checked.compression, self._workspace.model)
        self._keep_settings()

    def _keep_settings(self) -> None:
        folder = self._workspace.model
        forget_calibration_text(folder)
        keep_generation_settings(self._checked.source.folder, self._checked.config, folder)
