"""Every importance method with every representative rule on the real cache, in every precision."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.precisions import KV_PRECISION_PAIRS
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets
from ov_kvcrush.runtime.eviction.compressor import Compressor
from ov_kvcrush.runtime.eviction.cut_plan import CutPlanner
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence
from ov_kvcrush.selection import IMPORTANCE_METHODS, REPRESENTATIVE_RULES
from tests.support.engines import PAGE, TOKEN, bare_engine, prompt_of, read_prompt

PROMPT = prompt_of(400, 3)
EVERY = list(itertools.product(IMPORTANCE_METHODS, REPRESENTATIVE_RULES))


def kept_positions(engine: PagedEngine) -> list[NDArray[np.int32]]:
    return [layer.positions.copy() for layer in read_prompt(engine, PROMPT).layers]


class Cutter:
    """Cuts copies of one sequence that has read its prompt, by one policy after another."""

    def __init__(self, folder: Path, importance: str) -> None:
        self.engine = bare_engine(folder, max_cache_size=500, importance=importance)
        self.source = read_prompt(self.engine, PROMPT)
        assert not self.source.cuts

    def kept(self, **settings: Any) -> list[NDArray[np.int32]]:
        config = KVCacheConfig(representative_share=0.5, **settings)
        model, cache = self.engine.model, self.engine.cache
        budgets = CacheBudgets(config, model.cache_layers, ())
        planner = CutPlanner(config, budgets, 128)
        compressor = Compressor(
            model.layers, model.scales, model.memories, config, budgets, planner
        )
        copy = Sequence(
            list(self.source.tokens), model.layers, 16, accumulates=self.source.accumulates
        )
        cache.fork(self.source, copy)
        copy.planned_cuts = [Cut(len(PROMPT), config.max_cache_size)]
        compressor.compress(copy, cache)
        cache.check_integrity([self.source, copy])
        positions = [layer.positions.copy() for layer in copy.layers]
        cache.release(copy)
        return positions


@pytest.fixture(scope="module")
def cutters(needle_int8_dir: Path) -> dict[str, Cutter]:
    """By what the importance methods look at."""
    return {name: Cutter(needle_int8_dir, name) for name in ("snapkv", "h2o")}


def require_a_good_cut(
    positions: list[NDArray[np.int32]], budget: int, start: int, recent: int
) -> None:
    assert sum(p.size for p in positions) <= budget * sum(map(len, positions))
    for held in positions:
        assert (np.diff(held, axis=1) > 0).all()
        assert (held[:, :start] == np.arange(start)).all()
        assert (held[:, held.shape[1] - recent :] == 400 - recent + np.arange(recent)).all()


@pytest.mark.parametrize(("importance", "representatives"), EVERY)
def test_every_pair_keeps_exactly_its_budget_start_and_recent(
    cutters: dict[str, Cutter], importance: str, representatives: str
) -> None:
    cutter = cutters["h2o" if importance == "h2o" else "snapkv"]
    settings = {**TOKEN, "importance": importance, "representatives": representatives}
    first, second = cutter.kept(**settings), cutter.kept(**settings)
    require_a_good_cut(first, 100, 10, 30)
    assert sum(p.size for p in first) == 100 * sum(map(len, first))
    # The draws of what is random come from the seed.
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(("importance", "representatives"), EVERY)
def test_whole_pages_stay_within_the_budget(
    cutters: dict[str, Cutter], importance: str, representatives: str
) -> None:
    cutter = cutters["h2o" if importance == "h2o" else "snapkv"]
    settings = {**PAGE, "importance": importance, "representatives": representatives}
    require_a_good_cut(cutter.kept(**settings), 160, 32, 32)


@pytest.mark.parametrize(("key", "value"), KV_PRECISION_PAIRS)
@pytest.mark.parametrize("importance", ["snapkv", "h2o", "keydiff"])
def test_every_precision_is_cut(
    needle_int8_dir: Path, key: str, value: str, importance: str
) -> None:
    engine = bare_engine(
        needle_int8_dir, key_cache_precision=key, value_cache_precision=value,
        importance=importance, **TOKEN,
    )  # fmt: skip
    require_a_good_cut(kept_positions(engine), 100, 10, 30)


def test_the_top_scored_are_kept(needle_int8_dir: Path) -> None:
    # StreamingLLM's score is the position: the newest of the middle stay, and nothing else.
    engine = bare_engine(
        needle_int8_dir, importance="streaming", representatives="none", layer_budgets="uniform",
        **TOKEN,
    )  # fmt: skip
    for held in kept_positions(engine):
        assert (held[:, 10:] == np.arange(310, 400)).all()
