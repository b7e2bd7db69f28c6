"""The step of an export that gives each layer its KV precision, and shows what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ov_kvcrush.export.kv_plan.plan_file import require_layers
from ov_kvcrush.export.kv_plan.planner import measure_harm
from ov_kvcrush.export.kv_plan.sensitivity import (
    EXACT,
    SensitivityTrial,
    kl_divergence,
    read_output,
)
from ov_kvcrush.export.kv_plan.target import Target
from ov_kvcrush.export.texts.passages import read_tokens, split_passages
from ov_kvcrush.export.texts.texts import Text
from ov_kvcrush.export.trial import can_try_out
from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.plan_records import CacheOutput, Calibration
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.progress import Progress
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token

_BF16 = LayerPrecision("bf16", "bf16")
_COMPARED = {
    "bf16 (model and cache)": _BF16,
    "u8/u8": LayerPrecision("u8", "u8"),
    "u8/u4": LayerPrecision("u8", "u4"),
    "u4/u4": LayerPrecision("u4", "u4"),
}
# Measuring layer by layer takes about as long as everything behind it.
_SHARE_OF_MEASURING = 0.6


def plan_precisions(
    folder: Path,
    layers: tuple[LayerGeometry, ...],
    given: tuple[LayerPrecision, ...],
    text: Text,
    target: Target,
    context_length: int,
    progress: Progress,
) -> tuple[tuple[LayerPrecision, ...], Calibration | None]:
    """A precision for each layer of the model in ``folder``, and how it was found.

    Args:
        folder: exported model.
        layers: its geometry.
        given: precisions of the user's own, by layer; empty to calibrate them.
        text: to calibrate on.
        target: what calibrated precisions have to meet.
        context_length: tokens the model can read, 0 where that is not known.
        progress: is told how far it is.

    Returns:
        The precisions by layer, and how they were calibrated; None where they were given.

    Raises:
        ConfigError: ``given`` is for another number of layers, the target cannot be met, or the
            text is too short.
        OVKVCrushError: the model cannot be split like that, or its layers cannot be looked into.
    """
    if given:
        require_layers(given, len(layers))
        PagedModel(folder, precisions=given)  # refuses what cannot be split or stored
        return given, None
    return _calibrate(folder, layers, text, target, context_length, progress)


def _calibrate(
    folder: Path,
    layers: tuple[LayerGeometry, ...],
    text: Text,
    target: Target,
    context_length: int,
    progress: Progress,
) -> tuple[tuple[LayerPrecision, ...], Calibration]:
    fitted, judged = split_passages(read_tokens(folder, text), context_length)
    trial = SensitivityTrial(folder, fitted)
    table = measure_harm(
        folder, trial, layers, fitted, lambda share: progress.advance(share * _SHARE_OF_MEASURING)
    )
    assignment = table.choose(target)
    precisions = tuple(table.precisions[number] for number in assignment.chosen)
    measured = []
    for number, precision in enumerate(precisions):
        measured.append(trial.harm(number, precision))
        share = (number + 1) / len(layers) * (1 - _SHARE_OF_MEASURING) / 2
        progress.advance(_SHARE_OF_MEASURING + share)
    del trial
    return precisions, Calibration(
        text=text.origin,
        passages=tuple(len(passage) for passage in fitted),
        target={k: v for k, v in dataclasses.asdict(target).items() if v is not None},
        precisions=table.precisions,
        harms=tuple(tuple(round(harm, 8) for harm in layer) for layer in table.harms),
        predicted_kl=tuple(
            table.harms[number][chosen] for number, chosen in enumerate(assignment.chosen)
        ),
        measured_kl=tuple(measured),
        outputs=_compare(folder, layers, precisions, judged, progress),
    )


def _compare(
    folder: Path,
    layers: tuple[LayerGeometry, ...],
    precisions: Sequence[LayerPrecision],
    passages: Sequence[Sequence[int]],
    progress: Progress,
) -> dict[str, CacheOutput]:
    """What the whole model says, by cache, to passages that the plan was not made on."""
    all_exact = [EXACT] * len(layers)
    compared = {"f32": all_exact}
    if not can_try_out(_BF16):
        progress.note("this CPU has no bf16, so the table of KV caches leaves it out")
    compared |= {name: [one] * len(layers) for name, one in _COMPARED.items() if can_try_out(one)}
    compared["plan"] = list(precisions)
    exact = read_output(folder, all_exact, passages)
    outputs = {}
    for number, (name, stored) in enumerate(compared.items(), start=1):
        output = exact if stored == all_exact else read_output(folder, stored, passages)
        outputs[name] = CacheOutput(
            output.perplexity,
            kl_divergence(exact.log_probabilities, output.log_probabilities),
            kv_bytes_per_token(layers, stored),
        )
        progress.advance(1 - (1 - _SHARE_OF_MEASURING) / 2 * (1 - number / len(compared)))
    return outputs
