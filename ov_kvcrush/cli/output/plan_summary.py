"""A KV plan for people and for programs: what the model weighs and what its KV cache costs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ov_kvcrush.cli.output.console import print_rows, table_console
from ov_kvcrush.cli.output.plan_rows import (
    BUDGET,
    Rows,
    gate_bytes,
    plan_figures,
    plan_rows,
)
from ov_kvcrush.model_folder import has_chat_template
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.plan_records import Calibration
from ov_kvcrush.precisions import LayerPrecision

if TYPE_CHECKING:
    from ov_kvcrush.export.weight_speeds import WeightSpeed

_NO_SPEEDS: Mapping[str, WeightSpeed] = MappingProxyType({})
_MEASURED_BY = "int8"


def print_summary(
    plan: KVPlan,
    output: Path,
    is_estimate: bool = False,
    speeds: Mapping[str, WeightSpeed] = _NO_SPEEDS,
) -> None:
    """Print what an export or a calibration made, or an export would make, on stdout.

    Args:
        plan: of the model.
        output: its folder.
        is_estimate: whether nothing has been made.
        speeds: of weight formats on this machine, where they were measured.
    """
    title = f"{output} (estimated, nothing was exported)" if is_estimate else str(output)
    folder = shlex.quote(f"./{output}" if str(output).startswith("-") else str(output))
    command = f"ov-kvcrush chat {folder} --max-cache-size {BUDGET}"
    can_chat = not is_estimate and has_chat_template(output)
    following = f"Next: {command}" if can_chat else ""
    rows = plan_rows(plan, gate_bytes(plan, output))
    print_rows(title, [*rows, *weight_speed_rows(speeds)])
    if plan.calibration:
        print_calibration(plan.calibration, plan.precisions)
    if following:
        print(following)


def print_summary_as_json(
    plan: KVPlan,
    output: Path,
    is_estimate: bool = False,
    speeds: Mapping[str, WeightSpeed] = _NO_SPEEDS,
) -> None:
    """Print the same on stdout as one JSON object, as ``plan_figures`` has it.

    Seconds of weight formats are ``weight_speeds``.
    """
    summary: dict[str, Any] = {"output": str(output), "is_estimate": is_estimate}
    summary["weight_speeds"] = {name: asdict(speed) for name, speed in speeds.items()}
    print(json.dumps(summary | plan_figures(plan, gate_bytes(plan, output)), indent=2))


def weight_speed_rows(speeds: Mapping[str, WeightSpeed]) -> Rows:
    """Times of weight formats in multiples of int8's, for decoding and for prompts."""
    if not speeds:
        return []
    base = speeds[_MEASURED_BY]
    parts = [
        f"{name} {speed.token / base.token:.2f} and {speed.prompt / base.prompt:.2f}"
        for name, speed in speeds.items()
        if name != _MEASURED_BY
    ]
    told = f"{', '.join(parts)} of {_MEASURED_BY}'s time for a token and for a prompt"
    return [("Weights on this CPU", told)]


def print_calibration(calibration: Calibration, chosen: tuple[LayerPrecision, ...]) -> None:
    """Print on stdout what the ``chosen`` precisions do, layer by layer and as a whole."""
    console = table_console()
    console.print(_by_layer(calibration, chosen))
    console.print(_outputs(calibration))


def _by_layer(calibration: Calibration, chosen: tuple[LayerPrecision, ...]) -> Table:
    table = Table(title="KV plan: nats by which a layer's cache changes the output")
    table.title_justify = "left"
    table.add_column("layer", justify="right")
    table.add_column("keys / values")
    for name in ("predicted", "measured"):
        table.add_column(name, justify="right")
    rows = zip(chosen, calibration.predicted_kl, calibration.measured_kl, strict=True)
    for number, (precision, predicted, measured) in enumerate(rows):
        table.add_row(str(number), _pair(precision), f"{predicted:.5f}", f"{measured:.5f}")
    return table


def _outputs(calibration: Calibration) -> Table:
    table = Table(title="The whole model on a text the plan was not made on")
    table.title_justify = "left"
    table.add_column("KV cache")
    for name in ("KiB per token", "KL, nats", "perplexity"):
        table.add_column(name, justify="right")
    for name, output in calibration.outputs.items():
        size = f"{output.bytes_per_token / 1024:.2f}"
        table.add_row(name, size, f"{output.kl:.5f}", f"{output.perplexity:.3f}")
    return table


def _pair(precision: LayerPrecision) -> str:
    group = precision.value_group_size
    return f"{precision.key} / {precision.value}" + (f" (groups of {group})" if group else "")
