"""What precisions do is measured and predicted, and the best for a target is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export.kv_plan.planner import HarmTable, candidates, measure_harm
from ov_kvcrush.export.kv_plan.sensitivity import (
    EXACT,
    SensitivityTrial,
    kl_divergence,
    read_output,
)
from ov_kvcrush.export.kv_plan.target import Target
from ov_kvcrush.export.texts.passages import read_tokens, spread_passages
from ov_kvcrush.plan import KVPlan, LayerGeometry
from ov_kvcrush.precisions import LayerPrecision

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's

U4 = LayerPrecision("u4", "u4")


@pytest.fixture(scope="module")
def passages(needle_int8_dir: Path) -> list[list[int]]:
    return spread_passages(read_tokens(needle_int8_dir), 3, 160)


@pytest.fixture(scope="module")
def table(needle_int8_dir: Path, passages: list[list[int]]) -> HarmTable:
    plan = KVPlan.load(needle_int8_dir)
    assert plan is not None
    trial = SensitivityTrial(needle_int8_dir, passages)
    return measure_harm(needle_int8_dir, trial, plan.layers, passages)


def test_candidates_are_what_every_head_can_be_divided_into() -> None:
    assert len(candidates([LayerGeometry(12, 4, 64, 64)] * 2)) == 8
    assert len(candidates([LayerGeometry(4, 2, 16, 16)])) == 4
    groups = {p.value_group_size for p in candidates([LayerGeometry(4, 2, 48, 48)])}
    assert groups == {0, 16}


def test_what_was_not_measured_is_predicted_well(
    needle_int8_dir: Path, passages: list[list[int]], table: HarmTable
) -> None:
    trial = SensitivityTrial(needle_int8_dir, passages)
    for number in (0, 6):
        for precision in (LayerPrecision("u8", "u4", value_group_size=16), U4):
            predicted = table.harms[number][table.precisions.index(precision)]
            assert trial.harm(number, precision) == pytest.approx(predicted, rel=0.25)
    assert trial.harm(3, EXACT) == 0


def test_harm_adds_up_over_layers(
    needle_int8_dir: Path, passages: list[list[int]], table: HarmTable
) -> None:
    exact = read_output(needle_int8_dir, [EXACT] * 8, passages)
    low = read_output(needle_int8_dir, [U4] * 8, passages)
    found = kl_divergence(exact.log_probabilities, low.log_probabilities)
    column = table.precisions.index(U4)
    assert found == pytest.approx(sum(layer[column] for layer in table.harms), rel=0.3)
    assert exact.perplexity < 1.1 * low.perplexity


def test_a_target_is_met_by_the_best_there_is(table: HarmTable) -> None:
    whole = sum(layer[0] for layer in table.sizes)
    small = table.choose(Target())
    assert small.num_bytes <= 0.75 * whole
    harms = [table.choose(Target(kv_bytes_per_token=part * whole)).harm for part in (0.6, 0.8, 1)]
    assert harms == sorted(harms, reverse=True)
    least = table.choose(Target(max_drop=small.harm))
    assert least.num_bytes <= small.num_bytes
    assert least.harm <= small.harm


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(kv_bytes_per_token=100), "no KV plan takes less than 2,816 bytes a token"),
        (Target(max_drop=1e-9), "no KV plan diverges by less than"),
    ],
)
def test_targets_that_cannot_be_met_are_refused(
    table: HarmTable, target: Target, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        table.choose(target)
