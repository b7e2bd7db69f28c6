"""The steps of an export: fetch, convert the tokenizer, balance, export, compress, try, calibrate.

Importing this takes seconds: PyTorch, Optimum, NNCF and OpenVINO come with it.
"""

from __future__ import annotations

from functools import partial

from ov_kvcrush.export import optimum
from ov_kvcrush.export.calibration.measuring import Measuring
from ov_kvcrush.export.calibration.options import GATE, SHARES
from ov_kvcrush.export.checkpoint.completeness import loading_required_to_fit
from ov_kvcrush.export.checkpoint.estimate import context_length
from ov_kvcrush.export.checkpoint.generation_settings import keep_generation_settings
from ov_kvcrush.export.checkpoint.source import download
from ov_kvcrush.export.ir import forget_calibration_text, write_kv_precision
from ov_kvcrush.export.kv_plan.target import PrecisionSearch, Target
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.export.plan_writer import Calibrated, make_plan
from ov_kvcrush.export.preflight import Preflight
from ov_kvcrush.export.step import Step
from ov_kvcrush.export.subject import Subject
from ov_kvcrush.export.texts.mix import find_texts
from ov_kvcrush.export.tokenizer import convert_tokenizer
from ov_kvcrush.export.trial import can_try_out, geometry, try_on_paged_cache
from ov_kvcrush.export.value_balance.balance import balance_values
from ov_kvcrush.export.value_balance.projections import ValueProjections
from ov_kvcrush.export.workspace import Workspace
from ov_kvcrush.plan import KVPlan, LayerGeometry, ValueBasis
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
        self._subject: Subject | None = None  # once it was tried on the paged cache
        self._layers: tuple[LayerGeometry, ...] = ()
        self._measuring = self._prepare_measuring()

    def in_order(self) -> list[Step]:
        """The steps that this export takes, to be run one after another.

        A step that cannot be done raises ConfigError or ExportError when it is run.
        """
        checked, precision = self._checked, self._options.kv_precision
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
        return steps + self._measuring.in_order()

    def write_plan(self) -> KVPlan:
        """Write the KV plan, and a gate if there is one, beside the IR; all steps have been run."""
        measured, precision = self._measuring, self._options.kv_precision
        plan = make_plan(
            self._workspace.model,
            self._layers,
            measured.precisions or (precision,) * len(self._layers),
            measured.layer_shares,
            measured.share_measurement,
            measured.gate_measurement,
            measured.calibration,
            self._value_basis,
            made_here=True,
        )
        Calibrated(plan, measured.gate).write(self._workspace.model)
        return plan

    def _prepare_measuring(self) -> Measuring:
        options, checked = self._options, self._checked
        wanted = options.calibrate and can_try_out(options.kv_precision)
        search = None
        if options.kv_plan:
            target = Target(options.kv_bytes_per_token, options.max_drop)
            search = PrecisionSearch(checked.precisions, checked.kv_text, target)
        return Measuring(
            self._compiled,
            self._context_length,
            frozenset((SHARES, GATE) if wanted else ()),
            find_texts(options.texts),
            search,
            self._progress,
        )

    def _compiled(self) -> Subject:
        if self._subject is None:
            raise RuntimeError("the model is measured before it was compiled")
        return self._subject

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
            self._subject = try_on_paged_cache(folder, precision, self._progress)
            self._layers = self._subject.layers
        else:
            self._progress.note(
                "this CPU has no bf16: the KV cache was set to it but not tried out"
            )
            self._layers = geometry(folder)
