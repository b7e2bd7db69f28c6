"""What of a model is compiled: its precisions, its gate and its heads, by what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.gate import Gate
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.eviction.budgets import goes_by_heads
from ov_kvcrush.runtime.model.paged_model import PagedModel, require_cpu
from ov_kvcrush.runtime.pages.cache_layer import HeadGrouping, undivided
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.plugin.given_properties import read_properties
from ov_kvcrush.selection import group_all_heads


@dataclass(frozen=True)
class ModelRequest:
    """What is asked of a model; two that are equal are answered by the same compilation.

    Attributes:
        folder: exported model.
        device: name of the device, in any case.
        config: what the cache may hold.
        properties: of the plugin, as they were given.
        decode_precision: one of ``DECODE_PRECISIONS``.
        beside: policies that sequences on this model are cut by too; it computes what they look at.
    """

    folder: Path
    device: str
    config: KVCacheConfig
    properties: Mapping[str, Any]
    decode_precision: str
    beside: tuple[KVCacheConfig, ...] = ()


@dataclass(frozen=True)
class ModelChoice:
    """What is compiled for a request.

    Attributes:
        request: what was asked.
        config: of the cache, with what properties and model say of it.
        beside: likewise of the policies beside it.
        properties: of the plugin, without those that ``config`` has taken over.
        plan: of the model; None where it has none.
        gate: whose scores it computes; None for none.
    """

    request: ModelRequest
    config: KVCacheConfig
    beside: tuple[KVCacheConfig, ...]
    properties: Mapping[str, Any]
    plan: KVPlan | None
    gate: Gate | None

    @classmethod
    def of(cls, request: ModelRequest) -> ModelChoice:
        """What is compiled for ``request``.

        Raises:
            ModelError, DeviceError, ConfigError, UnsupportedError: it cannot be had.
        """
        device = require_cpu(request.device)
        config, properties = read_properties(device, request.properties, request.config)
        config.require_page_multiples(PAGE_SIZE)
        plan = KVPlan.load(request.folder)
        asked = (config, *request.beside)
        # A cache that is never cut needs no opinion about its tokens.
        gate = Gate.load(request.folder) if any(one.evicts for one in asked) else None
        has_gate, trusts_gate = gate is not None, gate is not None and gate.is_trusted
        config, *beside = (one.for_model(has_gate, trusts_gate) for one in asked)
        if not any(one.needs_gate for one in (config, *beside)):
            gate = None
        return cls(request, config, tuple(beside), properties, plan, gate)

    @property
    def shares(self) -> SequenceOf[SequenceOf[float]]:
        """Of each KV head, by layer of the model, as the plan says; empty where it does not."""
        return self.plan.head_shares if self.plan else ()

    def compile(self, before_compiling: Callable[[], object] | None = None) -> PagedModel:
        """The model, compiled; ``before_compiling`` and errors as :class:`PagedModel`."""
        return PagedModel(
            self.request.folder,
            self.request.device,
            _precisions(self.config, self.plan),
            self.properties,
            self.request.decode_precision,
            self.gate,
            grouping=_grouping([self.config, *self.beside], self.shares),
            before_compiling=before_compiling,
        )


def _grouping(
    configs: SequenceOf[KVCacheConfig], shares: SequenceOf[SequenceOf[float]]
) -> HeadGrouping:
    """Heads by the like of their ``shares`` where one of ``configs`` goes by them."""
    if not any(goes_by_heads(config, shares) for config in configs):
        return undivided
    return lambda layers: group_all_heads(shares)


def _precisions(
    config: KVCacheConfig, plan: KVPlan | None
) -> LayerPrecision | list[LayerPrecision] | None:
    """What the user asked for, else what the plan says, else None: the IR and the plugin decide."""
    key, value = config.key_cache_precision, config.value_cache_precision
    planned = plan.precisions if plan else ()
    if key is None and value is None:
        return list(planned) or None
    if key is not None and value is not None:
        return LayerPrecision(key, value)
    if not planned:
        given = key or value or ""
        return LayerPrecision(key or given, value or given)
    return [LayerPrecision(key or layer.key, value or layer.value) for layer in planned]
