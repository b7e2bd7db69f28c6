"""The steps that every export ends with: the IR's cache set, tried and measured."""

from __future__ import annotations

from pathlib import Path

from ov_kvcrush.export.calibration.measuring import Measuring
from ov_kvcrush.export.calibration.options import GATE, SHARES
from ov_kvcrush.export.ir import write_kv_precision
from ov_kvcrush.export.kv_plan.target import PrecisionSearch, Target
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.export.plan_writer import Calibrated, make_plan
from ov_kvcrush.export.step import Step
from ov_kvcrush.export.subject import Subject
from ov_kvcrush.export.texts.mix import find_texts
from ov_kvcrush.export.texts.texts import Text
from ov_kvcrush.export.trial import can_try_out, geometry, try_on_paged_cache
from ov_kvcrush.plan import KVPlan, LayerGeometry
from ov_kvcrush.plan_records import ValueBasis
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.progress import Progress


class LastSteps:
    """The last steps of one export, and what they find out that goes into the plan.

    Args:
        options: what is asked for.
        given: precisions of the cache by layer, where a file names them; else empty.
        kv_text: to calibrate precisions on.
        context_length: tokens the model can read, 0 where that is not known.
        folder: the IR, its configuration and tokenizer, by the time the first step is run.
        progress: is told how far a step is, and what could not be measured.
        made_here: whether the packages that are installed made the IR; else it notes what did.
    """

    def __init__(
        self,
        options: ExportOptions,
        given: tuple[LayerPrecision, ...],
        kv_text: Text,
        context_length: int,
        folder: Path,
        progress: Progress,
        made_here: bool = True,
    ) -> None:
        self._made_here = made_here
        self._precision = options.kv_precision
        self._folder = folder
        self._progress = progress
        self._subject: Subject | None = None  # once it was tried on the paged cache
        self._layers: tuple[LayerGeometry, ...] = ()
        wanted = options.calibrate and can_try_out(self._precision)
        search = None
        if options.kv_plan:
            target = Target(options.kv_bytes_per_token, options.max_drop)
            search = PrecisionSearch(given, kv_text, target)
        self._measuring = Measuring(
            self._compiled,
            context_length,
            frozenset((SHARES, GATE) if wanted else ()),
            find_texts(options.texts),
            search,
            progress,
        )

    def in_order(self) -> list[Step]:
        """The steps, to be run one after another."""
        stored = f"{self._precision.key}/{self._precision.value}"
        first = Step(f"Set the KV cache to {stored} and try it", self._set_and_try)
        return [first, *self._measuring.in_order()]

    def write_plan(self, value_basis: ValueBasis | None = None) -> KVPlan:
        """Write the KV plan, and a gate if there is one, beside the IR; all steps have been run.

        Args:
            value_basis: how the values' basis was found; None where it is the model's own.
        """
        measured = self._measuring
        plan = make_plan(
            self._folder,
            self._layers,
            measured.precisions or (self._precision,) * len(self._layers),
            measured.head_shares,
            measured.share_measurement,
            measured.gate_measurement,
            measured.calibration,
            value_basis,
            made_here=self._made_here,
        )
        Calibrated(plan, measured.gate).write(self._folder)
        return plan

    def _compiled(self) -> Subject:
        if self._subject is None:
            raise RuntimeError("the model is measured before it was compiled")
        return self._subject

    def _set_and_try(self) -> None:
        write_kv_precision(self._folder, self._precision)
        if can_try_out(self._precision):
            self._subject = try_on_paged_cache(self._folder, self._precision, self._progress)
            self._layers = self._subject.layers
        else:
            self._progress.note(
                "this CPU has no bf16: the KV cache was set to it but not tried out"
            )
            self._layers = geometry(self._folder)
