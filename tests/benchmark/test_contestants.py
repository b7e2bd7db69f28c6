"""Every engine that evicts holds the same total."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.benchmark.contestants import CONTESTANTS, OURS, find_contestant, is_ours
from ov_kvcrush.benchmark.side_setup import LEAST_BUDGET, SideSetup, require_budget
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.runtime.genai.eviction import GenaiEviction
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE


def setup_of(engine: str, total: int, **changes: Any) -> SideSetup:
    settings: dict[str, Any] = {
        "engine": engine,
        "model_dir": Path("model"),
        "device": "CPU",
        "max_cache_size": total,
        "precision": None,
        "pool_size": 8192,
        "num_threads": 2,
        "max_num_batched_tokens": 2048,
        "max_num_seqs": 64,
    }
    return SideSetup(**{**settings, **changes})


@pytest.mark.parametrize("total", [LEAST_BUDGET, 256, 1024, 4096])
def test_neither_side_ever_holds_more_than_the_other_may(total: int) -> None:
    ours = setup_of(OURS, total).cache_config()
    most = ours.max_cache_size + ours.decode_slack
    assert most == total + PAGE_SIZE
    for engine in ("genai-eviction", "genai-kvcrush"):
        theirs = GenaiEviction.of(setup_of(engine, total).cache_config(), PAGE_SIZE)
        # A page past its total is cut at the next token.
        length, held = 4000 + total, []
        for _ in range(100):
            length = theirs.kept(length + 1)
            held.append(length)
        assert max(held[1:]) <= most
        assert total == theirs.start + theirs.important + theirs.representatives + theirs.recent


def test_kvcrush_has_representatives_and_eviction_alone_has_none() -> None:
    shares = {
        engine: GenaiEviction.of(setup_of(engine, 1024).cache_config(), PAGE_SIZE).representatives
        for engine in ("genai-eviction", "genai-kvcrush")
    }
    assert shares["genai-eviction"] == 0
    assert shares["genai-kvcrush"] > 0


def test_without_a_total_nothing_is_evicted() -> None:
    assert not setup_of(OURS, 0).cache_config().evicts
    assert not setup_of("genai", 1024).cache_config().evicts
    assert setup_of("genai", 1024).title == "openvino_genai"
    assert setup_of(OURS, 1024).title == "ov-kvcrush, 1,024 tokens"


def test_precisions_and_pool_are_the_same_for_all() -> None:
    for engine in CONTESTANTS:
        config = setup_of(engine, 1024, precision=("u8", "u4")).cache_config()
        assert (config.key_cache_precision, config.value_cache_precision) == ("u8", "u4")
        assert config.pool_size == 8192
        assert not config.prefix_caching


@pytest.mark.parametrize("total", [1, 192, 1000])
def test_a_total_that_not_everyone_can_keep_to_is_refused(total: int) -> None:
    with pytest.raises(ConfigError, match=f"--max-cache-size {total} is not a total"):
        require_budget(total)


def test_ours_can_be_given_other_settings() -> None:
    text = "paged:decode_slack=64,layer_budgets=1,2,1,importance=keydiff"
    config = setup_of(text, 1024).cache_config()
    assert (config.decode_slack, config.importance) == (64, "keydiff")
    assert config.layer_budgets == (1, 2, 1)
    assert config.max_cache_size + config.decode_slack == 1024 + PAGE_SIZE
    assert is_ours(text)


def test_ours_can_have_a_total_of_its_own_where_answers_are_to_be_equal() -> None:
    setup = setup_of("paged:max_cache_size=512,prefill_budget=640", 1024)
    config = setup.cache_config()
    assert (config.max_cache_size, config.prefill_budget) == (512, 640)
    assert setup.title == "ov-kvcrush max_cache_size=512,prefill_budget=640"
    assert find_contestant("paged:max_cache_size=512").needs_total
    assert not find_contestant("paged:importance=keydiff").needs_total


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("genia", "unknown engine 'genia'"),
        ("genai:seed=1", "only ours, paged, takes settings"),
        ("paged:seed", "'seed' is not FIELD=VALUE"),
        ("paged:pool_size=512", "pool_size is the same for all that are compared"),
        ("paged:sed=1", "engine 'paged:sed=1': unknown"),
    ],
)
def test_an_engine_that_cannot_be_had_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_contestant(text)


def test_a_setup_can_be_sent_to_another_process() -> None:
    setup = setup_of("genai-kvcrush", 256, properties={"A": "1"})
    assert pickle.loads(pickle.dumps(setup)) == setup
