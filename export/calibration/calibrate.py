"""A whole calibration: a model folder checked, measured, and given its plan and its gate.

Of any text-generation folder: made by Optimum, downloaded ready, from a GGUF, or by an export of
this package, whose last steps are the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ov_kvcrush.errors import ExportError, ModelError
from ov_kvcrush.export.calibration.options import GATE, SHARES, CalibrationOptions
from ov_kvcrush.export.kv_plan.plan_file import read_kv_file
from ov_kvcrush.export.kv_plan.target import PrecisionSearch, Target, require_nncf
from ov_kvcrush.export.step import Step
from ov_kvcrush.export.texts.mix import CalibrationTexts, find_texts
from ov_kvcrush.gate import GATE_FILE, Gate
from ov_kvcrush.model_folder import context_length, fingerprint, load_tokenizer, require_graph
from ov_kvcrush.plan import PLAN_FILE, KVPlan
from ov_kvcrush.progress import Progress, Silent
from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token

if TYPE_CHECKING:
    from ov_kvcrush.export.calibration.measuring import Measuring
    from ov_kvcrush.export.plan_writer import Calibrated
    from ov_kvcrush.export.subject import Subject

Kept = TypeVar("Kept")


def calibrate_model(options: CalibrationOptions, progress: Progress | None = None) -> KVPlan:
    """Measure the model in ``options.folder``, and write what was found beside it.

    Returns:
        The KV plan, as it lies in the folder.

    Raises:
        ConfigError: options that contradict the model or one another.
        ModelError, UnsupportedError: the folder holds nothing that can be measured.
        ExportError: nothing can be written there, or nothing of what was asked for was found.
    """
    found = measure_model(options, progress)
    return write_calibrated(options.folder, found)


def measure_model(options: CalibrationOptions, progress: Progress | None = None) -> Calibrated:
    """Measure the model in ``options.folder``; nothing is written. Errors as the whole."""
    progress = progress or Silent()
    checked = _check(options, progress)

    # Seconds of imports: not before the checks that need none of them have passed.
    from ov_kvcrush.export.calibration.measuring import Measuring
    from ov_kvcrush.export.subject import compile_subject

    former = checked.plan
    subject = cache(partial(compile_subject, options.folder, former.precisions if former else None))
    measuring = Measuring(
        subject,
        context_length(options.folder),
        options.measures,
        checked.texts,
        checked.search,
        progress,
    )
    steps = [Step("Compile the model", subject), *measuring.in_order()]
    for number, step in enumerate(steps, start=1):
        progress.step(number, len(steps), step.title)
        step.run()
    if options.only == (GATE,) and measuring.gate is None:
        raise ExportError(
            "no gate was fitted, and nothing else was asked for",
            "Nothing was written. The model keeps distinct tokens, which need no gate.",
        )
    return _put_together(options, checked, subject(), measuring)


def write_calibrated(folder: Path, found: Calibrated) -> KVPlan:
    """Write what :func:`measure_model` found into ``folder``, whole or not at all.

    Raises:
        ExportError: it cannot be written, or the model is another one by now.
    """
    unchanged = "What was in the folder is unchanged."
    try:
        if fingerprint(folder) != found.plan.fingerprint:
            raise ExportError(
                f"the model in {folder} became another one while it was measured",
                "Run it again. What was measured was not written.",
            )
        found.write(folder)
    except OSError as error:
        what = f" ({error.filename})" if error.filename else ""
        raise ExportError(
            f"what was measured cannot be written into {folder}: {error.strerror}{what}", unchanged
        ) from error
    return found.plan


@dataclass(frozen=True)
class _Checked:
    """What is known before anything is measured.

    Attributes:
        fingerprint: of the IR.
        plan: that lies beside it; None where there is none that can be gone on from.
        keeps_gate: whether the gate beside it is its own, and is not measured anew.
        texts: to measure on.
        search: how precisions are found; None where they stay.
    """

    fingerprint: str
    plan: KVPlan | None
    keeps_gate: bool
    texts: CalibrationTexts
    search: PrecisionSearch | None


def _check(options: CalibrationOptions, progress: Progress) -> _Checked:
    """Refuse what cannot be done, cheap things first."""
    folder = options.folder
    require_graph(folder)
    _require_writable(folder)
    texts = find_texts(options.texts)
    chosen = options.chosen_plan
    given = read_kv_file(chosen) if chosen and chosen != "auto" else ()
    if chosen == "auto":
        require_nncf()
    load_tokenizer(folder)
    plan = _former(KVPlan.load, folder, "replaced", progress)
    gate = None if GATE in options.measures else _former(Gate.load, folder, "removed", progress)
    target = Target(options.kv_bytes_per_token, options.max_drop)
    search = PrecisionSearch(given, texts.first, target) if chosen else None
    try:
        return _Checked(fingerprint(folder), plan, gate is not None, texts, search)
    except OSError as error:
        raise ModelError(
            f"the model in {folder} cannot be read: {error.strerror} ({error.filename})"
        ) from error


def _require_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ExportError(
            f"no permission to write in {folder}, where the KV plan and the gate belong",
            "Copy the model to a folder of yours, and calibrate it there.",
        )
    for name in (PLAN_FILE, GATE_FILE):
        if (folder / name).is_dir():
            raise ExportError(f"{folder / name} is a folder, in the place of a file", "Remove it.")


def _former(
    load: Callable[[Path], Kept | None], folder: Path, done_with_it: str, progress: Progress
) -> Kept | None:
    """What ``load`` finds in ``folder``; None, and a note, if it is damaged or another model's."""
    try:
        return load(folder)
    except ModelError as error:
        progress.note(f"{error.message}: it is {done_with_it}")
        return None


def _put_together(
    options: CalibrationOptions, checked: _Checked, subject: Subject, measuring: Measuring
) -> Calibrated:
    from ov_kvcrush.export.plan_writer import Calibrated, make_plan

    plan = checked.plan or make_plan(options.folder, subject.layers, subject.model.precisions)
    changes: dict[str, Any] = {"fingerprint": checked.fingerprint}
    if SHARES in options.measures:
        changes["head_shares"] = measuring.head_shares
        changes["share_measurement"] = measuring.share_measurement
    if not checked.keeps_gate:
        changes["gate_measurement"] = measuring.gate_measurement
    if measuring.precisions:
        changes["precisions"] = measuring.precisions
        changes["calibration"] = measuring.calibration
        changes["kv_bytes_per_token"] = kv_bytes_per_token(plan.layers, measuring.precisions)
    return Calibrated(replace(plan, **changes), measuring.gate, checked.keeps_gate)
