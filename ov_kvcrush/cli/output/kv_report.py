"""What calibrating the KV cache's precisions found, as tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from ov_kvcrush.plan import KVPlan
from ov_kvcrush.precisions import LayerPrecision

# A table in a file or a pipe is as wide as it has to be.
_WIDE = 200


def print_calibration(plan: KVPlan) -> None:
    """Print on stdout what a calibrated ``plan`` does, layer by layer and as a whole."""
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=_WIDE)
    console.print(_by_layer(plan))
    console.print(_outputs(plan))


def _by_layer(plan: KVPlan) -> Table:
    table = Table(title="KV plan: nats by which a layer's cache changes the output")
    table.title_justify = "left"
    table.add_column("layer", justify="right")
    table.add_column("keys / values")
    for name in ("predicted", "measured"):
        table.add_column(name, justify="right")
    harms = zip(plan.calibration["predicted_kl"], plan.calibration["measured_kl"], strict=True)
    for number, (predicted, measured) in enumerate(harms):
        stored = _stored(plan.precisions[number])
        table.add_row(str(number), stored, f"{predicted:.5f}", f"{measured:.5f}")
    return table


def _outputs(plan: KVPlan) -> Table:
    table = Table(title="The whole model on a text the plan was not made on")
    table.title_justify = "left"
    table.add_column("KV cache")
    for name in ("KiB per token", "KL, nats", "perplexity"):
        table.add_column(name, justify="right")
    for row in _output_rows(plan):
        table.add_row(*row)
    return table


def _output_rows(plan: KVPlan) -> Iterator[tuple[str, ...]]:
    for name, found in plan.calibration["outputs"].items():
        size = found["bytes_per_token"] / 1024
        yield name, f"{size:.2f}", f"{found['kl']:.5f}", f"{found['perplexity']:.3f}"


def _stored(precision: LayerPrecision) -> str:
    group = precision.value_group_size
    return f"{precision.key} / {precision.value}" + (f" (groups of {group})" if group else "")
