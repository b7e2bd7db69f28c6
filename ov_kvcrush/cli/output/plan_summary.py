"""A KV plan for people and for programs: what the model weighs and what its KV cache costs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from rich.table import Table

from ov_kvcrush.cli.output.console import table_console
from ov_kvcrush.gate import GATE_FILE, MOST_NATS_REPEATING
from ov_kvcrush.model_folder import has_chat_template
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.plan_records import Calibration, Measurement, ValueBasis
from ov_kvcrush.precisions import LayerPrecision, ranges_of
from ov_kvcrush.progress import describe_seconds
from ov_kvcrush.runtime.eviction.budgets import budgeted_bytes

LENGTHS = (8192, 32768)
BUDGET = 1024

_NUM_NAMED = 3


def print_summary(plan: KVPlan, output: Path, is_estimate: bool = False) -> None:
    """Print what an export or a calibration made, or an export would make, on stdout."""
    rows = _rows(plan, output)
    title = f"{output} (estimated, nothing was exported)" if is_estimate else str(output)
    folder = shlex.quote(f"./{output}" if str(output).startswith("-") else str(output))
    command = f"ov-kvcrush chat {folder} --max-cache-size {BUDGET}"
    can_chat = not is_estimate and has_chat_template(output)
    following = f"Next: {command}" if can_chat else ""
    console = table_console()
    if console.is_terminal:
        table = Table(title=title, title_justify="left", show_header=False)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        print(title)
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"  {name:<{width}}  {value}")
    if plan.calibration:
        _print_calibration(plan.calibration, plan.precisions)
    if following:
        print(following)


def print_summary_as_json(plan: KVPlan, output: Path, is_estimate: bool = False) -> None:
    """Print the same on stdout as one JSON object: the plan, and KV bytes by number of tokens.

    ``kv_bytes_at`` is without a budget, ``kv_bytes_with_budget`` with one of ``budget`` tokens;
    ``gate_bytes`` is the size of the gate's file, 0 where there is none; ``layer_shares`` are the
    means of the plan's ``head_shares``.
    """
    summary: dict[str, Any] = {"output": str(output), "is_estimate": is_estimate}
    kv_bytes = {
        "kv_bytes_at": {n: plan.kv_bytes_per_token * n for n in (BUDGET, *LENGTHS)},
        "kv_bytes_with_budget": {n: _with_budget(plan, n) for n in LENGTHS},
    }
    for name, sizes in kv_bytes.items():
        summary[name] = {str(tokens): round(size) for tokens, size in sizes.items()}
    summary["gate_bytes"] = gate_bytes(plan, output)
    summary |= {"budget": BUDGET, "layer_shares": plan.layer_shares}
    print(json.dumps(summary | plan.to_dict(), indent=2))


def precision_ranges(precisions: tuple[LayerPrecision, ...]) -> list[str]:
    """One line for each run of layers that store their cache alike."""
    lines = []
    for layers, precision in ranges_of(precisions).items():
        key = _stored(precision.key, precision.key_group_size)
        value = _stored(precision.value, precision.value_group_size)
        several = "-" in layers
        lines.append(f"layer{'s' * several} {layers.replace('-', '–')}: K {key}, V {value}")
    return lines


def budget_row(plan: KVPlan) -> tuple[str, str]:
    """Whose budgets the plan tells apart, and shares in a line: by layer where heads are alike.

    The largest one by one, the others as a range.
    """
    if any(len(set(layer)) > 1 for layer in plan.head_shares):
        shares = {
            f"layer {number} head {head}": share
            for number, layer in enumerate(plan.head_shares)
            for head, share in enumerate(layer)
        }
        return "Head budgets", _largest_first(shares)
    shares = {f"layer {number}": share for number, share in enumerate(plan.layer_shares)}
    return "Layer budgets", _largest_first(shares)


def _largest_first(shares: dict[str, float]) -> str:
    by_size = sorted(shares, key=lambda name: -shares[name])
    named = [name for name in by_size if shares[name] > 1][:_NUM_NAMED]
    parts = [f"{name}: {shares[name]:.1f}" for name in named]
    others = [f"{shares[name]:.1f}" for name in reversed(by_size[len(named) :])]
    if others:
        parts.append("others: " + "–".join(dict.fromkeys((others[0], others[-1]))))
    return f"{', '.join(parts)} (1 is an even share)"


def gate_line(measurement: Measurement, num_bytes: int) -> str:
    """How well the gate says what its teacher says, by layer, and what it weighs."""
    found = [value for value in measurement.correlation if value is not None]
    parts = [f"{num_bytes / 1e3:,.0f} kB", f"{measurement.num_passages} passages"]
    if found:
        mean = sum(found) / len(found)
        spread = f"{min(found):.2f} to {max(found):.2f} by layer"
        parts.insert(0, f"correlation with its teacher {mean:.2f} ({spread})")
    if measurement.nats_repeating > MOST_NATS_REPEATING:
        parts.append("not gone by unless asked for, as the model repeats texts badly")
    return ", ".join(parts)


def gate_bytes(plan: KVPlan, output: Path) -> int:
    """Size of the file of the gate that ``plan`` tells of, 0 where there is none."""
    path = output / GATE_FILE
    return path.stat().st_size if plan.gate_measurement and path.exists() else 0


def basis_line(basis: ValueBasis) -> str:
    """How the values' basis was found, and what is predicted of it if that is known."""
    cost = basis.predicted_cost
    if not cost:
        return basis.method
    least, most = (f"{100 * share:.0f}" for share in (min(cost), max(cost)))
    return f"{basis.method}: rounding costs {least}–{most} % of before (predicted)"


def _size(num_bytes: float) -> str:
    """``num_bytes`` in MB (10^6 bytes), to a tenth: sizes that are compared with one another."""
    return f"{num_bytes / 1e6:,.1f} MB"


def _rows(plan: KVPlan, output: Path) -> list[tuple[str, str]]:
    rows = [("Model", _model(plan)), ("Weights", _weights(plan.weights))]
    if not plan.layers:
        return [*rows, ("KV cache", "cannot be told from this model's configuration")]
    rows += [("KV cache", line) for line in precision_ranges(plan.precisions)]
    rows.append(("KV per token", f"{plan.kv_bytes_per_token / 1024:,.2f} KiB"))
    rows += [
        (
            f"KV at {tokens:,} tokens",
            f"{_size(tokens * plan.kv_bytes_per_token)} in full, "
            f"{_size(_with_budget(plan, tokens))} with a budget of {BUDGET:,} tokens",
        )
        for tokens in LENGTHS
    ]
    if plan.value_basis:
        rows.append(("Value basis", basis_line(plan.value_basis)))
    if plan.head_shares:
        rows.append(budget_row(plan))
    if plan.gate_measurement:
        rows.append(("Gate", gate_line(plan.gate_measurement, gate_bytes(plan, output))))
    seconds = sum(m.seconds for m in (plan.share_measurement, plan.gate_measurement) if m)
    if seconds:
        rows.append(("Measured in", describe_seconds(seconds)))
    return rows


def _with_budget(plan: KVPlan, tokens: int) -> float:
    """Bytes that the cache of ``tokens`` tokens takes with a budget of ``BUDGET`` of them."""
    return budgeted_bytes(plan.layers, plan.precisions, tokens, BUDGET)


def _model(plan: KVPlan) -> str:
    parts = [plan.model_type]
    if plan.layers:
        layer = plan.layers[0]
        parts += [
            f"{len(plan.layers)} layers",
            f"{layer.num_query_heads} query / {layer.num_kv_heads} KV heads of "
            f"{layer.key_head_size}",
        ]
    if plan.context_length:
        parts.append(f"context {plan.context_length:,}")
    return ", ".join(parts)


def _weights(weights: dict[str, Any]) -> str:
    parts = [str(weights["format"])]
    for name, text in (("ratio", "ratio {}"), ("group_size", "groups of {}")):
        if weights.get(name, -1) != -1:
            parts.append(text.format(weights[name]))
    parts += [method.replace("_", " ") for method in weights.get("methods", [])]
    return ", ".join([*parts, _size(weights["size_bytes"])])


def _stored(precision: str, group_size: int) -> str:
    return f"{precision} (groups of {group_size})" if group_size else precision


def _print_calibration(calibration: Calibration, chosen: tuple[LayerPrecision, ...]) -> None:
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
