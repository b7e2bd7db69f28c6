"""What an exported model's files note about it: settings read, written and forgotten.

Of the IR only the XML is rewritten: OpenVINO's own saving would copy gigabytes of weights to change
a line.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ov_kvcrush.files import replacing
from ov_kvcrush.model_folder import GRAPH_FILE, WEIGHTS_FILE
from ov_kvcrush.precisions import LayerPrecision

_MAKERS = {
    "optimum-intel": "optimum/optimum_intel_version",
    "nncf": "nncf/version",
    "transformers": "optimum/transformers_version",
    "torch": "optimum/pytorch_version",
    "openvino-genai": "gguf/openvino_genai_version",
    "gguf": "gguf/gguf_version",
}
_METHODS = ("awq", "scale_estimation", "gptq", "lora_correction")


def write_kv_precision(folder: Path, precision: LayerPrecision) -> None:
    """Set what the KV cache is stored in when the IR in ``folder`` is compiled without properties.

    Replaces what an earlier export set, and the ``KV_CACHE_PRECISION`` that Optimum writes.
    """
    wanted = {
        "KEY_CACHE_PRECISION": precision.key,
        "VALUE_CACHE_PRECISION": precision.value,
        "KEY_CACHE_GROUP_SIZE": str(precision.key_group_size or ""),
        "VALUE_CACHE_GROUP_SIZE": str(precision.value_group_size or ""),
        "KV_CACHE_PRECISION": "",
    }
    path = folder / GRAPH_FILE
    tree = ElementTree.parse(path)
    options = _child(_child(tree.getroot(), "rt_info"), "runtime_options")
    for name, value in wanted.items():
        for former in options.findall(name):
            options.remove(former)
        if value:
            ElementTree.SubElement(options, name, value=value)
    ElementTree.indent(options, "\t", level=2)
    with replacing(path) as stream:
        tree.write(stream, encoding="utf-8", xml_declaration=True)


def forget_calibration_text(folder: Path) -> None:
    """Remove the user's calibration text, which Optimum notes whole in ``openvino_config.json``."""
    path = folder / "openvino_config.json"
    if not path.exists():
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    settings = stored.get("quantization_config") or {}
    parts = [settings, settings.get("default_config") or {}]
    parts += (settings.get("quantization_configs") or {}).values()
    for part in parts:
        if isinstance(part.get("dataset"), list):
            part["dataset"] = None
    path.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


def read_graph(folder: Path) -> ElementTree.Element:
    """The graph of the IR in ``folder``, for those who read more than one thing of it."""
    return ElementTree.parse(folder / GRAPH_FILE).getroot()


def read_options(graph: ElementTree.Element) -> dict[str, str]:
    """Properties that a graph asks for where it is compiled without, by name."""
    return {one.tag: one.get("value", "") for one in graph.iterfind("rt_info/runtime_options/*")}


def read_weights(folder: Path, graph: ElementTree.Element | None = None) -> dict[str, Any]:
    """How the weights of the IR in ``folder`` were made, and their size in bytes.

    From what NNCF, or this package of a GGUF file, noted in the graph; else from the type of most
    weights.

    Args:
        folder: of the IR.
        graph: that was read of it already.
    """
    root = read_graph(folder) if graph is None else graph
    weights: dict[str, Any] = {}
    noted = root.find("rt_info/nncf/weight_compression")
    from_gguf = root.find("rt_info/gguf")
    if from_gguf is not None:
        told = {entry.tag: entry.get("value", "") for entry in from_gguf}
        weights |= {"format": told["format"], "gguf": told["file"]}
    elif noted is None:
        weights["format"] = _most_common_type(root)
    else:
        values = {entry.tag: _value(entry.get("value", "")) for entry in noted}
        weights["format"] = values["mode"]
        if not str(values["mode"]).startswith("int8"):
            weights |= {name: values[name] for name in ("ratio", "group_size", "all_layers")}
            weights["backup_format"] = values["backup_mode"]
        weights["methods"] = [name for name in _METHODS if values.get(name) is True]
    weights["size_bytes"] = (folder / WEIGHTS_FILE).stat().st_size
    return weights


def read_makers(folder: Path, graph: ElementTree.Element | None = None) -> dict[str, str]:
    """The packages that made the IR in ``folder`` and their versions, as far as it notes them.

    ``graph``: that was read of it already.
    """
    notes = (read_graph(folder) if graph is None else graph).find("rt_info")
    if notes is None:
        return {}
    found = {package: notes.find(place) for package, place in _MAKERS.items()}
    openvino = notes.find("info[@name='OpenVINO Runtime']")
    found["openvino"] = notes.find("Runtime_version") if openvino is None else openvino
    versions = {p: place.get("value", "") for p, place in found.items() if place is not None}
    # OpenVINO's own has its build behind it.
    versions |= {p: v.split("-")[0] for p, v in versions.items() if p == "openvino"}
    return {package: version for package, version in versions.items() if version}


def _most_common_type(root: ElementTree.Element) -> str:
    sizes: dict[str, int] = {}
    for data in root.iterfind("layers/layer[@type='Const']/data"):
        kind = data.get("element_type", "")
        sizes[kind] = sizes.get(kind, 0) + int(data.get("size", 0))
    return {"f32": "fp32", "f16": "fp16"}.get(name := max(sizes, key=lambda k: sizes[k]), name)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _child(parent: ElementTree.Element, name: str) -> ElementTree.Element:
    found = parent.find(name)
    return ElementTree.SubElement(parent, name) if found is None else found
