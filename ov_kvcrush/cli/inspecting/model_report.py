"""What inspect shows of a model or a KV plan: as tables, and as JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from ov_kvcrush.cli.output.console import print_rows, table_console
from ov_kvcrush.cli.output.plan_rows import Rows, forecast_of, plan_figures, plan_rows, size
from ov_kvcrush.cli.output.plan_summary import print_calibration
from ov_kvcrush.inspection.kind import MODEL, PLAN
from ov_kvcrush.inspection.memory import Room, room_for
from ov_kvcrush.inspection.model import InspectedModel
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.plan_records import Measurement
from ov_kvcrush.runtime.eviction.forecast import CacheForecast

LENGTHS = (8192, 32768, 131072)


def print_model(model: InspectedModel, budget: int) -> None:
    """Print what there is to know of ``model``, with caches of ``budget`` tokens, on stdout."""
    plan = model.plan
    forecast = forecast_of(plan, budget)
    rows = plan_rows(plan, model.gate_bytes, budget, LENGTHS)
    rows.append(("Caches", _caches(plan, forecast)))
    rows += _about_plan(model)
    room = room_for(plan, forecast)
    rows += _about_room(room, plan, budget)
    print_rows(str(model.path), rows)
    table_console().print(_by_layer(plan, forecast, budget, room.context))
    if plan.calibration:
        print_calibration(plan.calibration, plan.precisions)


def model_figures(model: InspectedModel, budget: int) -> dict[str, Any]:
    """The same as JSON values.

    All of the plan, and: ``caches`` by cache layer, with the tokens that each of its ``heads``
    keeps of a text of ``context`` tokens; ``memory`` in bytes, tokens and users.
    """
    forecast = forecast_of(model.plan, budget)
    room = room_for(model.plan, forecast)
    figures = plan_figures(model.plan, model.gate_bytes, budget, LENGTHS)
    held = zip(forecast.cache_layers, forecast.held(room.context), strict=True)
    caches = [
        {"layer": layer.layer, "heads": layer.heads, "tokens": tokens} for layer, tokens in held
    ]
    return {
        "kind": PLAN if model.folder is None else MODEL,
        "path": str(model.path),
        "has_plan": model.has_plan,
        "is_beside_another_model": model.is_beside_another,
        "plan_written": time_of(model.plan_written) if model.has_plan else None,
        "has_gate": model.gate is not None,
        "context": room.context,
        "caches": caches,
        "memory": {**dataclasses.asdict(room), "cache_bytes": room.cache_bytes},
        **figures,
    }


def time_of(seconds: float) -> str:
    """A time in seconds since 1970, as people and programs here write it."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "minutes")


def _caches(plan: KVPlan, forecast: CacheForecast) -> str:
    heads, caches = sum(layer.num_kv_heads for layer in plan.layers), len(forecast.cache_layers)
    told = f"{caches:,} for {heads:,} KV heads"
    if caches == len(plan.layers):
        return f"{told}: one for each layer"
    return f"{told}: heads of a layer whose shares are alike share one"


def _about_plan(model: InspectedModel) -> Rows:
    """How it was made, and what is not as it should be."""
    plan, rows = model.plan, Rows()
    if plan.gate_measurement and model.folder and model.gate is None:
        rows.append(("Gate", "its file is missing: ov-kvcrush calibrate --only gate"))
    if model.gate is not None and not plan.gate_measurement:
        rows.append(
            ("Gate", f"{model.gate_bytes / 1e3:,.0f} kB, which does not tell how good it is")
        )
    for name, measurement in (
        ("Shares from", plan.share_measurement),
        ("Gate from", plan.gate_measurement),
    ):
        if measurement:
            rows.append((name, _texts(measurement)))
    if plan.made_with:
        made_with = (f"{package} {version}" for package, version in plan.made_with.items())
        rows.append(("Made with", ", ".join(made_with)))
    if not model.has_plan:
        rows.append(("KV plan", "not there; ov-kvcrush calibrate makes one"))
    else:
        note = ", beside another model than its own" if model.is_beside_another else ""
        rows.append(("KV plan", f"written {time_of(model.plan_written)}{note}"))
        if not plan.head_shares:
            rows.append(("KV heads", "not measured: every layer has the same budget"))
    return rows


def _about_room(room: Room, plan: KVPlan, budget: int) -> Rows:
    """What fits into this machine."""
    if room.cache_bytes <= 0:
        left = f"{size(room.free_bytes)}: less than the weights"
        return [("Free memory", left)]
    told = "" if plan.context_length else ", where the model does not tell its context"
    return [
        (
            "Free memory",
            f"{size(room.free_bytes)}, {size(room.cache_bytes)} of it for caches beside the "
            "weights; a pool takes half unless --pool-size says otherwise",
        ),
        (
            "Fits in full",
            f"{room.tokens_in_full:,} tokens: {_users(room.users_in_full)} of "
            f"{room.context:,} tokens{told}",
        ),
        (
            f"Fits at {budget:,}",
            f"{_users(room.users)} of up to {size(room.user_bytes)}, or "
            f"{_users(room.users_reading)} of up to {size(room.reading_bytes)} while all of them "
            "read long prompts",
        ),
    ]


def _by_layer(plan: KVPlan, forecast: CacheForecast, budget: int, tokens: int) -> Table:
    """A line a layer: shares of its heads, which of them share a cache, and the gate.

    Args:
        plan: of the model.
        forecast: of a cache of ``budget`` tokens.
        budget: tokens.
        tokens: of the text that is cut to it.
    """
    caches: dict[int, list[str]] = {}
    for layer, kept in zip(forecast.cache_layers, forecast.held(tokens), strict=True):
        caches.setdefault(layer.layer, []).append(f"{_ranges(layer.heads)}: {kept:,}")
    title = f"By layer: a budget of {budget:,} tokens for {tokens:,}"
    table = Table(title=title, title_justify="left")
    correlation = plan.gate_measurement.correlation if plan.gate_measurement else ()
    has_windows = any(layer.sliding_window for layer in plan.layers)
    table.add_column("layer", justify="right")
    if plan.head_shares:
        table.add_column("share of each KV head")
    table.add_column("KV heads that share a cache: tokens kept")
    if has_windows:
        table.add_column("window", justify="right")
    if correlation:
        table.add_column("gate", justify="right")
    for number, geometry in enumerate(plan.layers):
        cells = [str(number)]
        if plan.head_shares:
            cells.append("  ".join(f"{share:.2f}" for share in plan.head_shares[number]))
        cells.append("   ".join(caches[number]))
        if has_windows:
            cells.append(f"{geometry.sliding_window:,}" if geometry.sliding_window else "")
        if correlation:
            value = correlation[number]
            cells.append("" if value is None else f"{value:.2f}")
        table.add_row(*map(Text, cells))
    return table


def _texts(measurement: Measurement) -> str:
    """The texts that were measured on, in words."""
    names = ", ".join(dict.fromkeys(map(_name, measurement.texts))) or "texts that are not named"
    if measurement.passage_tokens:
        held = f", {measurement.num_held} more to check on" if measurement.num_held else ""
        names += f" (passages of {measurement.passage_tokens:,} tokens{held})"
    if measurement.nats_repeating:
        names += f"; the model repeats them at {measurement.nats_repeating:.2f} nats a token"
    return names


def _name(text: dict[str, Any]) -> str:
    source, kind = text.get("source", "a text without a name"), text.get("kind", "text")
    return f"the package's own {kind}" if source == "ov-kvcrush" else str(source)


def _ranges(heads: Iterable[int]) -> str:
    """Ascending numbers, those in a row by the first and the last: ``0–2, 5``."""
    runs: list[list[int]] = []
    for head in heads:
        if runs and head == runs[-1][-1] + 1:
            runs[-1].append(head)
        else:
            runs.append([head])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _users(count: int) -> str:
    return "1 user" if count == 1 else f"{count:,} users"
