"""A KV plan for people and for programs: what the model weighs and what its KV cache costs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from rich.table import Table

from ov_kvcrush.cli.output.console import print_rows, table_console
from ov_kvcrush.cli.output.plan_rows import BUDGET, gate_bytes, plan_figures, plan_rows
from ov_kvcrush.model_folder import has_chat_template
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.plan_records import Calibration
from ov_kvcrush.precisions import LayerPrecision


def print_summary(plan: KVPlan, output: Path, is_estimate: bool = False) -> None:
    """Print what an export or a calibration made, or an export would make, on stdout."""
    title = f"{output} (estimated, nothing was exported)" if is_estimate else str(output)
    folder = shlex.quote(f"./{output}" if str(output).startswith("-") else str(output))
    command = f"ov-kvcrush chat {folder} --max-cache-size {BUDGET}"
    can_chat = not is_estimate and has_chat_template(output)
    following = f"Next: {command}" if can_chat else ""
    print_rows(title, plan_rows(plan, gate_bytes(plan, output)))
    if plan.calibration:
        print_calibration(plan.calibration, plan.precisions)
    if following:
        print(following)


def print_summary_as_json(plan: KVPlan, output: Path, is_estimate: bool = False) -> None:
    """Print the same on stdout as one JSON object, as ``plan_figures`` has it."""
    summary = {"output": str(output), "is_estimate": is_estimate}
    print(json.dumps(summary | plan_figures(plan, gate_bytes(plan, output)), indent=2))


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
