"""Precisions by ranges of layers: there and back, and what is refused."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.precisions import (
    KV_PRECISION_PAIRS,
    LayerPrecision,
    by_layer,
    describe_precisions,
    ranges_of,
)

U8 = LayerPrecision("u8", "u8")
U4 = LayerPrecision("u4", "u4", value_group_size=32)
PRECISIONS = st.builds(
    lambda pair, group: LayerPrecision(pair[0], pair[1], value_group_size=group),
    st.sampled_from(KV_PRECISION_PAIRS),
    st.sampled_from([0, 32]),
)


@given(st.lists(PRECISIONS, min_size=1, max_size=12))
def test_ranges_say_the_precision_of_every_layer(precisions: list[LayerPrecision]) -> None:
    ranges = ranges_of(precisions)
    assert by_layer(ranges) == tuple(precisions)
    as_json = {layers: dataclasses.asdict(precision) for layers, precision in ranges.items()}
    assert by_layer(as_json) == tuple(precisions)
    runs = list(ranges.values())
    assert all(a != b for a, b in pairwise(runs))


def test_ranges_are_named_by_their_ends() -> None:
    assert list(ranges_of([U8, U4, U4, U4, U8])) == ["0", "1-3", "4"]


def test_ranges_may_stand_in_any_order_and_leave_group_sizes_out() -> None:
    ranges = {"2": {"key": "u4", "value": "u4"}, "0-1": {"key": "u8", "value": "u8"}}
    assert by_layer(ranges) == (U8, U8, LayerPrecision("u4", "u4"))


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"0-1": U8, "1-2": U4}, "layer 1 is in two ranges"),
        ({"0": U8, "2": U4}, "layer 1 is in no range"),
        ({"1-0": U8}, "'1-0' is not a range of layers"),
        ({"all": U8}, "'all' is not a range of layers"),
        ({"-1": U8}, "'-1' is not a range of layers"),
        ({"0": {"key": "u8"}}, "is not a precision"),
        ({"0": "u8"}, "is not a precision"),
        ({"0": {"key": "u8", "value": "u8", "bits": 4}}, "Its fields: key, value, "),
        ({"0": {"key": "u4", "value": "f32"}}, "cannot hold keys in u4"),
        ({"0": {"key": "u8", "value": "u8", "value_group_size": "32"}}, "'32' is not a group size"),
    ],
)
def test_what_is_not_a_precision_of_every_layer_is_refused(
    ranges: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        by_layer(ranges)


def test_a_description_has_one_name_where_all_layers_are_alike() -> None:
    assert describe_precisions([U8, U8])["key_cache_precision"] == "u8"
    assert describe_precisions([U8, LayerPrecision("u8", "u4")]) == {
        "key_cache_precision": "u8",
        "value_cache_precision": "u8+u4",
        "layer_precisions": {"0": "u8/u8", "1": "u8/u4"},
    }
