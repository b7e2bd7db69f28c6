"""A model by its files: its KV plan, its gate, and what its graph notes where there is no plan."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ov_kvcrush.errors import ModelError
from ov_kvcrush.files import read_json
from ov_kvcrush.gate import GATE_FILE, Gate
from ov_kvcrush.model_folder import (
    WEIGHTS_FILE,
    context_length,
    fingerprint,
    model_type,
    require_graph,
)
from ov_kvcrush.plan import PLAN_FILE, KVPlan
from ov_kvcrush.plan_records import Measurement, check_by_layer

_FOREIGN = "Give a model's folder, or the ov_kvcrush.json in it."


@dataclass(frozen=True, eq=False)
class InspectedModel:
    """A model that lies in a folder, or the KV plan of one that does not.

    Attributes:
        path: that was inspected.
        plan: of the model; where it has none, what the engine would do without.
        has_plan: whether it has one.
        folder: of the model; None for a plan that lies elsewhere, or beside another model.
        is_beside_another: the plan lies beside a model that it was not written for.
        gate: beside the model; None where there is none.
        gate_bytes: size of its file.
        plan_written: when the plan's file was written, in seconds since 1970; 0 without a plan.
    """

    path: Path
    plan: KVPlan
    has_plan: bool
    folder: Path | None
    is_beside_another: bool = False
    gate: Gate | None = None
    gate_bytes: int = 0
    plan_written: float = 0.0


def inspect_model(folder: Path) -> InspectedModel:
    """The model in ``folder``: by its KV plan, else by its graph, which is read and not compiled.

    Raises:
        ModelError: it is not a text-generation model, or a file of it is damaged.
        UnsupportedError: it has no plan, and an architecture that the paged engine cannot run.
        ConfigError: its graph asks for KV precisions that do not go together.
    """
    require_graph(folder)
    plan = KVPlan.load(folder)
    return _with_gate(folder, folder, plan or _unplanned(folder), plan is not None)


def inspect_plan(path: Path) -> InspectedModel:
    """The KV plan in the file at ``path``, with the model beside it if it was written for that.

    Raises:
        OVKVCrushError: it cannot be read, is not a KV plan, or is damaged.
    """
    stored = read_json(path)
    if not isinstance(stored, dict) or "layers" not in stored or "version" not in stored:
        raise ModelError(f"{path} is a JSON file, but not a KV plan", _FOREIGN)
    plan = KVPlan.from_dict(stored, f"the KV plan {path}")
    try:
        is_of_folder = fingerprint(path.parent) == plan.fingerprint
    except OSError:  # a plan alone
        return InspectedModel(path, plan, True, None, plan_written=path.stat().st_mtime)
    if is_of_folder:
        return _with_gate(path, path.parent, plan, True)
    written = path.stat().st_mtime
    return InspectedModel(path, plan, True, None, is_beside_another=True, plan_written=written)


def _with_gate(path: Path, folder: Path, plan: KVPlan, has_plan: bool) -> InspectedModel:
    gate = Gate.load(folder)
    return InspectedModel(
        path,
        _with_measurement(plan, gate) if gate and not plan.gate_measurement else plan,
        has_plan,
        folder,
        gate=gate,
        gate_bytes=(folder / GATE_FILE).stat().st_size if gate else 0,
        plan_written=(folder / PLAN_FILE).stat().st_mtime if has_plan else 0.0,
    )


def _with_measurement(plan: KVPlan, gate: Gate) -> KVPlan:
    """``plan``, which does not tell of its gate, with what the gate says of itself."""
    about = {name: value for name, value in gate.about.items() if name != "ov-kvcrush"}
    try:
        measurement = Measurement.from_dict(about)
        check_by_layer(len(plan.layers), None, None, measurement)
    except (KeyError, TypeError, AttributeError):
        return plan
    return replace(plan, gate_measurement=measurement)


def _unplanned(folder: Path) -> KVPlan:
    """A plan of what the engine does without one; nothing in it is measured."""
    # Seconds of imports that a model with a plan has no need of.
    from ov_kvcrush.export.ir import read_graph, read_makers, read_options
    from ov_kvcrush.runtime.model.paged_graph import read_geometry
    from ov_kvcrush.runtime.pages.layout import kv_bytes_per_token
    from ov_kvcrush.runtime.plugin.properties import precision_unasked

    layers = read_geometry(folder)
    try:
        graph = read_graph(folder)
        identity = fingerprint(folder)
    except (OSError, ElementTree.ParseError) as error:
        raise ModelError(
            f"the model in {folder} cannot be read: {error}", "Export the model again."
        ) from error
    precisions = (precision_unasked(read_options(graph)),) * len(layers)
    return KVPlan(
        model_type=model_type(folder),
        fingerprint=identity,
        layers=layers,
        precisions=precisions,
        kv_bytes_per_token=kv_bytes_per_token(layers, precisions),
        context_length=context_length(folder),
        weights=_weights(folder, graph),
        made_with=read_makers(folder, graph),
    )


def _weights(folder: Path, graph: ElementTree.Element) -> dict[str, Any]:
    """How they were made, where the graph notes it in a way that is known, and their size."""
    from ov_kvcrush.export.ir import read_weights

    with suppress(KeyError, ValueError):
        return read_weights(folder, graph)
    return {"size_bytes": (folder / WEIGHTS_FILE).stat().st_size}
