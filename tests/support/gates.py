"""Gates for models that were exported without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ov_kvcrush.gate import GATE_FILE, Gate
from ov_kvcrush.model_folder import fingerprint
from ov_kvcrush.runtime.model.key_state import find_key_states
from ov_kvcrush.runtime.model.paged_graph import attention_nodes, read_paged_graph


def random_gate(folder: Path, seed: int = 0) -> Gate:
    """A gate with an opinion of its own for every head of the model in ``folder``."""
    graph = read_paged_graph(folder)
    states = find_key_states(graph.model, attention_nodes(graph.model))
    assert states is not None
    rng = np.random.default_rng(seed)
    sizes = [
        (state.get_partial_shape()[2].get_length(), layer.num_kv_heads)
        for state, layer in zip(states, graph.layers, strict=True)
    ]
    return Gate(
        tuple((rng.normal(size=size) / 8).astype(np.float32) for size in sizes),
        tuple(rng.normal(size=heads).astype(np.float32) for _, heads in sizes),
        fingerprint(folder),
    )


def ungated(folder: Path, source: Path) -> Path:
    """Let ``folder`` hold the exported model of ``source`` without its gate."""
    for path in source.iterdir():
        if path.name != GATE_FILE:
            (folder / path.name).symlink_to(path)
    return folder


def gated(folder: Path, source: Path, seed: int = 0) -> Path:
    """Let ``folder`` hold the exported model of ``source``, and a random gate."""
    random_gate(source, seed).save(ungated(folder, source))
    return folder
