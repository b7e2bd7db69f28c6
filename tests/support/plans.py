"""Small KV plans of models that there are not."""

from __future__ import annotations

from dataclasses import replace

from ov_kvcrush.plan import KVPlan, LayerGeometry
from ov_kvcrush.precisions import LayerPrecision


def plan_of(*windows: int) -> KVPlan:
    """Layers that take 100 bytes a token each (20 + 5 numbers in f32), by sliding window."""
    layers = tuple(LayerGeometry(1, 1, 20, 5, window) for window in windows)
    precisions = (LayerPrecision("f32", "f32"),) * len(windows)
    weights = {"format": "fp32", "size_bytes": 0}
    return KVPlan("llama", "", layers, precisions, 100.0 * len(windows), 0, weights=weights)


def with_shares(*shares: tuple[float, ...]) -> KVPlan:
    """A plan of layers with so many heads."""
    plan = plan_of(*(0 for _ in shares))
    layers = tuple(
        replace(plan.layers[0], num_query_heads=len(layer), num_kv_heads=len(layer))
        for layer in shares
    )
    kv_bytes = 100.0 * sum(map(len, shares))
    return replace(plan, layers=layers, head_shares=shares, kv_bytes_per_token=kv_bytes)
