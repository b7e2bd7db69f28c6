"""The steps of a calibration: layer shares, the gate, and precisions where they are wanted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version

from ov_kvcrush.errors import OVKVCrushError, last_line
from ov_kvcrush.export.calibration.gate_passages import choose_passages, passage_length
from ov_kvcrush.export.calibration.options import GATE, SHARES
from ov_kvcrush.export.gate import measure_gate, nats_when_repeating
from ov_kvcrush.export.kv_plan.target import PrecisionSearch
from ov_kvcrush.export.layer_shares import measure_head_shares
from ov_kvcrush.export.step import Step
from ov_kvcrush.export.subject import Subject
from ov_kvcrush.export.texts.mix import CalibrationTexts
from ov_kvcrush.gate import Gate
from ov_kvcrush.model_folder import fingerprint
from ov_kvcrush.plan_records import Calibration, Measurement
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.progress import Progress

_SEED = 0


class Measuring:
    """What is measured of one model, step by step.

    Args:
        subject: the model, once its steps begin.
        context_length: tokens it can read, 0 where that is not known.
        wanted: ``SHARES``, ``GATE``, both or neither.
        texts: to fit the gate on; shares are measured on the first of the package's own.
        search: how precisions are found; None where they stay.
        progress: is told how far a step is, and what could not be measured.

    Attributes:
        head_shares, share_measurement, gate_measurement, calibration: as in a plan.
        gate: None where there is none.
        precisions: empty where they were not wanted.
    """

    def __init__(
        self,
        subject: Callable[[], Subject],
        context_length: int,
        wanted: frozenset[str],
        texts: CalibrationTexts,
        search: PrecisionSearch | None,
        progress: Progress,
    ) -> None:
        self._subject = subject
        self._context_length = context_length
        self._wanted = wanted
        self._texts = texts
        self._search = search
        self._progress = progress
        self.head_shares: tuple[tuple[float, ...], ...] = ()
        self.share_measurement: Measurement | None = None
        self.gate: Gate | None = None
        self.gate_measurement: Measurement | None = None
        self.precisions: tuple[LayerPrecision, ...] = ()
        self.calibration: Calibration | None = None

    def in_order(self) -> list[Step]:
        """The steps, to be run one after another.

        What cannot be measured is told as a note, and is not there afterwards; only precisions that
        cannot be found raise a ConfigError or another of this package's errors.
        """
        steps = []
        if SHARES in self._wanted:
            steps.append(Step("Measure which heads look back", self._measure_shares))
        if GATE in self._wanted:
            steps.append(Step("Fit the gate", self._fit_gate))
        if self._search:
            find = partial(self._find_precisions, self._search)
            steps.append(Step("Give each layer its KV precision", find))
        return steps

    def _measure_shares(self) -> None:
        begin = time.monotonic()
        subject = self._subject()
        self.head_shares = measure_head_shares(
            subject.divided, subject.layers, subject.folder, self._context_length, self._progress
        )
        if self.head_shares:
            self.share_measurement = Measurement(
                texts=(self._texts.prose[0].origin,), seconds=round(time.monotonic() - begin, 1)
            )

    def _fit_gate(self) -> None:
        subject = self._subject()
        length = passage_length(self._context_length)
        if not subject.shows_states:
            self._no_gate("the states that its keys are made of were not found in its graph")
        elif not length:
            self._no_gate(f"a context of {self._context_length} tokens is too short")
        else:
            try:
                self._fit_gate_on(subject, length)
            except OVKVCrushError as error:
                self._no_gate(error.message)
            except RuntimeError as error:  # OpenVINO's, of an inference or the tokenizer
                self._no_gate(last_line(error))

    def _fit_gate_on(self, subject: Subject, length: int) -> None:
        begin = time.monotonic()
        passages = choose_passages(subject, self._texts, length)
        self._progress.advance(0)  # how long it will take is told by what comes now
        found = measure_gate(
            subject.model,
            passages.fitted,
            passages.held,
            self._progress,
            instruction=passages.instruction,
            seed=_SEED,
        )
        self.gate_measurement = Measurement(
            texts=self._texts.origins,
            num_passages=len(passages.fitted),
            num_held=len(passages.held),
            passage_tokens=length,
            correlation=tuple(
                round(value, 3) if math.isfinite(value) else None for value in found.correlation
            ),
            nats_repeating=round(
                nats_when_repeating(subject.model, passages.held, passages.instruction), 3
            ),
            seconds=round(time.monotonic() - begin, 1),
        )
        about = {**self.gate_measurement.to_dict(), "ov-kvcrush": version("ov-kvcrush")}
        self.gate = replace(found.gate, fingerprint=fingerprint(subject.folder), about=about)

    def _no_gate(self, reason: str) -> None:
        self._progress.note(f"the model gets no gate, and keeps distinct tokens: {reason}")

    def _find_precisions(self, search: PrecisionSearch) -> None:
        # Needs NNCF to calibrate them, which nothing else here does.
        from ov_kvcrush.export.kv_plan.calibration import plan_precisions

        subject = self._subject()
        self.precisions, self.calibration = plan_precisions(
            subject.folder,
            subject.layers,
            search.given,
            search.text,
            search.target,
            self._context_length,
            self._progress,
        )
