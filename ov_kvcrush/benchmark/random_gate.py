"""Gates of random weights: what they say makes no difference to what they cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ov_kvcrush.gate import Gate
from ov_kvcrush.runtime.model.paged_graph import read_paged_graph, require_key_states


def random_gate(folder: Path) -> Gate:
    """A gate for the model in ``folder``, without the fingerprint that ties it to one.

    Raises:
        ModelError, UnsupportedError: as the paged engine.
    """
    graph = read_paged_graph(folder)
    rng = np.random.default_rng(0)
    sizes = [
        (state.get_partial_shape()[2].get_length(), layer.num_kv_heads)
        for state, layer in zip(
            require_key_states(graph.model, graph.cache_layers), graph.layers, strict=True
        )
    ]
    return Gate(
        tuple(rng.normal(size=size).astype(np.float32) for size in sizes),
        tuple(np.zeros(heads, np.float32) for _, heads in sizes),
        fingerprint="",
    )
