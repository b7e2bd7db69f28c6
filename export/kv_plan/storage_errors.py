"""How far off low precisions store a layer's keys and values, collected by NNCF over a text.

NNCF's statistics machinery runs the exported model over an ``nncf.Dataset`` and gathers, for every
attention, what its cache would hold; how the plugin stores it is computed here, page by page. Some
of what is imported is internal to NNCF and may move, so it is used in this module alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
from nncf.common.graph.transformations.commands import TargetType
from nncf.common.tensor_statistics.collectors import (
    MeanAggregator,
    TensorCollector,
    TensorReducerBase,
)
from nncf.common.tensor_statistics.statistic_point import StatisticPoint, StatisticPointsContainer
from nncf.openvino.graph.nncf_graph_builder import GraphConverter
from nncf.openvino.graph.transformations.commands import OVTargetPoint
from nncf.openvino.statistics.aggregator import OVStatisticsAggregator
from nncf.tensor import Tensor
from numpy.typing import NDArray

from ov_kvcrush.errors import ExportError
from ov_kvcrush.model_folder import GRAPH_FILE
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.plugin.core import core

Floats = NDArray[np.float32]

_LEVELS = {"u8": 255, "u4": 15}
_ATTENTION_TYPE = "ScaledDotProductAttention"
# Its inputs.
_KEY, _VALUE = 1, 2
_BRANCH = "errors"


@dataclass(frozen=True)
class Storage:
    """How one side of the cache is stored: ``u8`` or ``u4``, and elements of a value's group."""

    kind: str
    group_size: int = 0


def collect_errors(
    folder: Path,
    samples: Sequence[Sequence[int]],
    keys: Sequence[Storage],
    values: Sequence[Storage],
) -> list[tuple[Floats, Floats]]:
    """Mean squared error of each layer's keys and values in each storage.

    Args:
        folder: exported model.
        samples: token ids; each is read from an empty cache.
        keys: storages of keys, without groups: these share scales by channel and page.
        values: storages of values.

    Returns:
        By layer, errors ``[len(keys)]`` and ``[len(values)]``.

    Raises:
        ExportError: the exported graph has no attention of the type that is known here.
    """
    model = core().read_model(folder / GRAPH_FILE)
    attentions = [
        node for node in model.get_ordered_ops() if node.get_type_name() == _ATTENTION_TYPE
    ]
    if not attentions:
        raise ExportError("the exported graph has no scaled dot product attention to look into")
    points = StatisticPointsContainer()
    collectors = []
    for attention in attentions:
        for port, storages in ((_KEY, keys), (_VALUE, values)):
            collector = TensorCollector()
            reducer = _StorageErrors(by_channel=port == _KEY, storages=tuple(storages))
            collector.register_statistic_branch(
                _BRANCH, reducer, MeanAggregator(aggregation_axes=(0,))
            )
            collectors.append(collector)
            place = OVTargetPoint(
                TargetType.PRE_LAYER_OPERATION, attention.get_friendly_name(), port_id=port
            )
            points.add_statistic_point(StatisticPoint(place, collector, "KV cache"))
    aggregator = OVStatisticsAggregator(nncf.Dataset([_inputs(model, one) for one in samples]))
    aggregator.register_statistic_points(points)
    aggregator.collect_statistics(model, GraphConverter.create_nncf_graph(model))
    found = [np.asarray(one.get_statistics()[_BRANCH].data) for one in collectors]
    return list(zip(found[0::2], found[1::2], strict=True))


class _StorageErrors(TensorReducerBase):
    """Reduces keys or values ``[1, H, S, D]`` to a mean squared error for each storage."""

    def __init__(self, by_channel: bool, storages: tuple[Storage, ...]) -> None:
        super().__init__(inplace=False)
        self._by_channel = by_channel
        self._storages = storages

    def get_inplace_fn(self) -> None:
        """Nothing of it is computed in the graph."""

    def _reduce_out_of_place(self, x: list[Tensor]) -> list[Tensor]:
        exact = np.asarray(x[0].data, dtype=np.float32)[0]
        stored = quantized_keys if self._by_channel else quantized_values
        errors = [np.square(exact - stored(exact, one)).mean() for one in self._storages]
        return [Tensor(np.array(errors, dtype=np.float32))]

    # NNCF joins collectors whose reducers are equal.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StorageErrors) and self._settings == other._settings

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._settings))

    @property
    def _settings(self) -> tuple[Any, ...]:
        return self._by_channel, self._storages


def quantized_keys(keys: Floats, storage: Storage) -> Floats:
    """Keys ``[H, S, D]`` as the plugin gives them back: scales by channel of each page."""
    stored = [
        _quantized(keys[:, begin : begin + PAGE_SIZE], storage.kind, axis=1)
        for begin in range(0, keys.shape[1], PAGE_SIZE)
    ]
    return np.concatenate(stored, axis=1)


def quantized_values(values: Floats, storage: Storage) -> Floats:
    """Values ``[H, S, D]`` as the plugin gives them back: scales by token and group."""
    groups = values.reshape(*values.shape[:2], -1, storage.group_size or values.shape[2])
    return _quantized(groups, storage.kind, axis=3).reshape(values.shape)


def _quantized(exact: Floats, kind: str, axis: int) -> Floats:
    low = exact.min(axis=axis, keepdims=True)
    span = exact.max(axis=axis, keepdims=True) - low
    scale = np.where(span > 0, span / _LEVELS[kind], np.float32(1))
    zero = -low / scale
    codes = np.clip(np.rint(exact / scale + zero), 0, _LEVELS[kind])
    return np.asarray((codes - zero) * scale, dtype=np.float32)


def _inputs(model: ov.Model, tokens: Sequence[int]) -> dict[str, NDArray[np.integer]]:
    count = len(tokens)
    known: dict[str, NDArray[np.integer]] = {
        "input_ids": np.array([tokens], np.int64),
        "attention_mask": np.ones((1, count), np.int64),
        "position_ids": np.arange(count, dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    taken = {name for port in model.inputs for name in port.get_names()}
    return {name: value for name, value in known.items() if name in taken}
