"""What is measured, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.benchmark.grid import Grid, make_grid
from ov_kvcrush.benchmark.options import BenchmarkOptions
from ov_kvcrush.errors import ConfigError, ContextError


@pytest.fixture
def grid(needle_int8_dir: Path) -> Any:
    def make(**options: Any) -> Grid:
        return make_grid(BenchmarkOptions(needle_int8_dir, **options))

    return make


def test_the_default_is_with_and_without_eviction_in_both_orders(grid: Any) -> None:
    made = grid()
    assert [group.max_cache_size for group in made.groups] == [0, 1024]
    full, cut = made.groups
    assert [setup.engine for setup in full.setups] == ["paged", "genai"]
    assert [setup.engine for setup in cut.setups] == [
        "paged", "genai", "genai-eviction", "genai-kvcrush"
    ]  # fmt: skip
    assert made.orders == (1, -1)
    assert [workload.prompt_tokens for workload in full.workloads] == [4096]


def test_axes_are_multiplied(grid: Any) -> None:
    made = grid(
        prompt_tokens=(512, 1024),
        concurrency=(1, 4),
        max_cache_sizes=(256, 512),
        precisions=(None, ("u8", "u4")),
        engines=("paged",),
    )
    assert len(made.groups) == 4
    assert all(len(group.workloads) == 4 for group in made.groups)
    # A pool for the largest of them.
    assert all(s.pool_size >= 4 * 1088 for group in made.groups for s in group.setups)


def test_quick_is_one_turn_in_one_order(grid: Any) -> None:
    made = grid(quick=True)
    assert (made.num_turns, made.orders) == (1, (1,))
    assert made.groups[0].workloads[0].prompt_tokens == 1024


def test_every_side_gets_the_same_threads_and_pool(grid: Any) -> None:
    (group,) = grid(max_cache_sizes=(256,), num_threads=1).groups
    assert len({(s.num_threads, s.pool_size, s.max_num_seqs) for s in group.setups}) == 1


def test_a_shared_document_is_asked_a_short_question_and_may_be_found_again(grid: Any) -> None:
    (group,) = grid(max_cache_sizes=(256,), shared_document=600, concurrency=(3,)).groups
    (workload,) = group.workloads
    assert (workload.prompt_tokens, workload.shared_tokens) == (632, 600)
    assert all(setup.cache_config().prefix_caching for setup in group.setups)
    (plain,) = grid(max_cache_sizes=(256,)).groups
    assert not any(setup.cache_config().prefix_caching for setup in plain.setups)


def test_a_default_prompt_fits_a_short_context(grid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ov_kvcrush.benchmark.grid.model_context_length", lambda folder: 2048)
    assert grid().groups[0].workloads[0].prompt_tokens == 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_size": 64}, "--pool-size 64 is too small for 4,096 tokens in, 64 out"),
        ({"engines": ("genai-kvcrush",), "max_cache_sizes": (0,)}, "cannot run with"),
        ({"engines": ("genia",)}, "unknown engine 'genia'"),
        ({"max_cache_sizes": (100,)}, "--max-cache-size 100 is not a total"),
        (
            {"shared_document": 600, "prompt_tokens": (700, 600)},
            "shared document of 600 tokens leaves nothing of a prompt of 600",
        ),
        ({"num_threads": 10_000}, "--threads 10000 is more than"),
        ({"properties": {"INFERENCE_NUM_THREADS": "1"}}, "is the same for every engine"),
        ({"precisions": (("u8", "f32"),)}, "cannot hold keys in u8 with values in f32"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    grid: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(**options)


def test_a_prompt_beyond_the_context_is_refused(grid: Any) -> None:
    with pytest.raises(ContextError, match="more than the 8,192 that the model was made to read"):
        grid(prompt_tokens=(512, 8192))


def test_more_sides_than_there_is_memory_for_are_refused(
    grid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short:
        available = 20_000_000

    monkeypatch.setattr("psutil.virtual_memory", lambda: Short)
    with pytest.raises(ConfigError, match="2 engines that take turns hold"):
        grid(max_cache_sizes=(0,))
