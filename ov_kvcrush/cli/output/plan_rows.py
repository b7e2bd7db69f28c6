"""A KV plan as rows of a summary and as JSON values: the same wherever a plan is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.gate import GATE_FILE, MOST_NATS_REPEATING
from ov_kvcrush.plan import KVPlan, LayerGeometry
from ov_kvcrush.plan_records import Measurement, ValueBasis
from ov_kvcrush.precisions import LayerPrecision, ranges_of
from ov_kvcrush.progress import describe_seconds
from ov_kvcrush.runtime.eviction.forecast import CacheForecast

Rows = list[tuple[str, str]]
"""Names and values; a name may come more than once in a row."""

LENGTHS = (8192, 32768)
BUDGET = 1024

_NUM_NAMED = 3


def forecast_of(plan: KVPlan, budget: int = BUDGET) -> CacheForecast:
    """What caches of the plan's model hold with a budget of ``budget`` tokens."""
    config = KVCacheConfig(max_cache_size=budget)
    return CacheForecast(config, plan.layers, plan.precisions, plan.head_shares)


def plan_rows(
    plan: KVPlan,
    num_gate_bytes: int = 0,
    budget: int = BUDGET,
    lengths: Sequence[int] = LENGTHS,
) -> Rows:
    """What a plan says of a model and its cache.

    Args:
        plan: of the model.
        num_gate_bytes: size of the gate's file; 0 where it is not known.
        budget: tokens of a cache that is cut.
        lengths: tokens of texts, of which the caches' sizes are told.
    """
    rows = [("Model", model_line(plan)), ("Weights", weights_line(plan.weights))]
    if not plan.layers:
        return [*rows, ("KV cache", "cannot be told from this model's configuration")]
    rows += [("KV cache", line) for line in precision_ranges(plan.precisions)]
    rows.append(("KV per token", f"{plan.kv_bytes_per_token / 1024:,.2f} KiB"))
    forecast = forecast_of(plan, budget)
    rows += [
        (
            f"KV at {tokens:,} tokens",
            f"{size(tokens * plan.kv_bytes_per_token)} in full, "
            f"{size(forecast.num_bytes(tokens))} with a budget of {budget:,} tokens",
        )
        for tokens in lengths
    ]
    if plan.value_basis:
        rows.append(("Value basis", basis_line(plan.value_basis)))
    if plan.head_shares:
        rows.append(budget_row(plan))
    if plan.gate_measurement:
        rows.append(("Gate", gate_line(plan.gate_measurement, num_gate_bytes)))
    seconds = sum(m.seconds for m in (plan.share_measurement, plan.gate_measurement) if m)
    if seconds:
        rows.append(("Measured in", describe_seconds(seconds)))
    return rows


def plan_figures(
    plan: KVPlan,
    num_gate_bytes: int,
    budget: int = BUDGET,
    lengths: Sequence[int] = LENGTHS,
) -> dict[str, Any]:
    """The same as JSON values: the plan, and KV bytes by number of tokens.

    ``kv_bytes_at`` is without a budget, ``kv_bytes_with_budget`` with one of ``budget`` tokens;
    ``gate_bytes`` is the size of the gate's file, 0 where there is none; ``layer_shares`` are the
    means of the plan's ``head_shares``. Arguments as :func:`plan_rows`.
    """
    in_full = {n: plan.kv_bytes_per_token * n for n in (budget, *lengths)}
    cut = {n: forecast_of(plan, budget).num_bytes(n) for n in lengths} if plan.layers else {}
    figures: dict[str, Any] = {}
    for name, sizes in (("kv_bytes_at", in_full), ("kv_bytes_with_budget", cut)):
        figures[name] = {str(tokens): round(num_bytes) for tokens, num_bytes in sizes.items()}
    figures["gate_bytes"] = num_gate_bytes
    figures |= {"budget": budget, "layer_shares": plan.layer_shares}
    return figures | plan.to_dict()


def model_line(plan: KVPlan) -> str:
    """Architecture and geometry."""
    parts = [plan.model_type]
    if plan.layers:
        parts.append(geometry_line(plan.layers))
    if plan.context_length:
        parts.append(f"context {plan.context_length:,}")
    return ", ".join(parts)


def geometry_line(layers: Sequence[LayerGeometry]) -> str:
    """Layers and heads of a model that has some."""
    kinds = dict.fromkeys(
        f"{layer.num_query_heads} query / {layer.num_kv_heads} KV heads of {layer.key_head_size}"
        for layer in layers
    )
    return f"{len(layers)} layers, {' and '.join(kinds)}"


def weights_line(weights: dict[str, Any]) -> str:
    """How the weights were made, as far as it is known, and what they weigh."""
    parts = [weights.get("format", "of a format that is not noted")]
    for name, text in (("ratio", "ratio {}"), ("group_size", "groups of {}")):
        if weights.get(name, -1) != -1:
            parts.append(text.format(weights[name]))
    parts += [method.replace("_", " ") for method in weights.get("methods", [])]
    return ", ".join([*parts, size(weights.get("size_bytes", 0))])


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
    parts = [f"{num_bytes / 1e3:,.0f} kB"] if num_bytes else []
    parts.append(f"{measurement.num_passages} passages")
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


def size(num_bytes: float) -> str:
    """``num_bytes`` in MB (10^6 bytes), to a tenth: sizes that are compared with one another."""
    return f"{num_bytes / 1e6:,.1f} MB"


def _stored(precision: str, group_size: int) -> str:
    return f"{precision} (groups of {group_size})" if group_size else precision
