"""What an engine says of itself: who holds the pool, what has ended, and how long it took."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from openvino_genai import Tokenizer

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.runtime.engine_metrics import TPOT_BOUNDS, TTFT_BOUNDS, EndedSequences
from ov_kvcrush.runtime.genai.engine import GenaiEngine
from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.engines import EVICTING, engine_of, finish, greedy, prompt_of


def test_the_pool_is_told_by_its_owners(needle_int8_dir: Path) -> None:
    engine = engine_of(needle_int8_dir, pool_size=1024, max_num_seqs=1)
    session = Session()
    finish(engine, engine.add_request(prompt_of(100), greedy(3), session))
    # What the prompt left for others to begin with shares all pages but the last of each layer.
    both = engine.metrics()
    assert both.owners["prefixes"] == engine.cache.bytes_for(100)
    assert both.used_bytes == engine.cache.bytes_for(128 + 32)
    engine.prefixes.clear()
    chat = engine.metrics()
    assert chat.owners["chats"] == chat.used_bytes == engine.cache.bytes_for(102)
    running = engine.add_request(prompt_of(200, 1), greedy(50))
    waiting = engine.add_request(prompt_of(50, 2), greedy(3))
    engine.step()
    now = engine.metrics()
    assert (now.num_running, now.num_waiting) == (1, 1)
    assert now.owners["running"] == engine.cache.bytes_for(200)
    assert now.owners["waiting"] == 0
    assert now.owners["prefixes"] == engine.cache.bytes_for(200)
    shared = engine.cache.bytes_for(200)
    assert sum(now.owners.values()) - shared == now.used_bytes <= now.pool_bytes
    engine.cancel(running)
    finish(engine, waiting)
    engine.close_session(session)
    engine.prefixes.clear()
    end = engine.metrics()
    assert (end.ended.num_finished, end.ended.num_cancelled) == (2, 1)
    assert (end.num_running, end.num_waiting, end.used_bytes) == (0, 0, 0)


def test_tokens_are_summed_over_what_has_ended(needle_int8_dir: Path) -> None:
    engine = engine_of(needle_int8_dir, **EVICTING)
    session = Session()
    first = engine.add_request(prompt_of(300), greedy(4), session)
    finish(engine, first)
    history = [*prompt_of(300), *first.generations[0].tokens, *prompt_of(20, 1)]
    second = engine.add_request(history, greedy(4), session)
    finish(engine, second)
    costs = [request.generations[0].metrics for request in (first, second)]
    told = engine.metrics()
    assert told.ended.num_prompt_tokens == 300 + len(history)
    assert told.ended.num_generated_tokens == 8
    assert told.ended.num_reused_tokens == costs[1].num_reused_tokens > 200
    assert told.ended.num_kept_tokens == sum(cost.kv_tokens for cost in costs)
    assert told.ended.num_evicted_tokens == sum(cost.num_evicted_tokens for cost in costs) > 300


def test_each_of_several_sequences_counts(needle_int8_dir: Path) -> None:
    engine = engine_of(needle_int8_dir, pool_size=1024)
    several = greedy(3, do_sample=True, num_return_sequences=3)
    finish(engine, engine.add_request(prompt_of(40), several))
    told = engine.metrics()
    assert (told.ended.num_finished, told.ended.ttft.count, told.ended.tpot.count) == (3, 3, 3)


def test_preemptions_are_counted(needle_int8_dir: Path) -> None:
    engine = engine_of(needle_int8_dir, pool_size=256)
    requests = [engine.add_request(prompt_of(100, n), greedy(80)) for n in range(3)]
    finish(engine, *requests)
    each = [request.generations[0].metrics.num_preemptions for request in requests]
    assert engine.metrics().ended.num_preemptions == sum(each) > 0


def test_histograms_count_as_prometheus_does() -> None:
    ended = EndedSequences()
    times = [[0.0005, 0.011], [0.001, 0.101], [0.3], [3000.0, 3000.05, 3000.1], []]
    for moments in times:
        ended.add(GenerationMetrics(token_times=list(moments)), cancelled=not moments)
    assert (ended.num_finished, ended.num_cancelled) == (4, 1)
    ttft, tpot = ended.ttft.to_dict(), ended.tpot.to_dict()
    # A bound belongs to its bucket; what is above all of them is in the last.
    assert ttft["buckets"]["0.001"] == 2
    assert ttft["buckets"]["0.25"] == 2
    assert ttft["buckets"]["0.5"] == 3
    assert ttft["buckets"]["2560"] == 3
    assert ttft["buckets"]["+Inf"] == ttft["count"] == 4
    assert ttft["sum"] == pytest.approx(3000.3015)
    assert (tpot["count"], tpot["buckets"]["0.025"], tpot["buckets"]["0.1"]) == (3, 1, 3)
    for bounds, histogram in ((TTFT_BOUNDS, ended.ttft), (TPOT_BOUNDS, ended.tpot)):
        assert histogram.bounds == bounds == tuple(sorted(set(bounds)))
        assert all(a <= b for a, b in pairwise(histogram.cumulative))


def test_openvino_genai_tells_what_it_knows(needle_int8_dir: Path) -> None:
    config = KVCacheConfig(pool_size=1024)
    engine = GenaiEngine(needle_int8_dir, Tokenizer(needle_int8_dir), config=config)
    requests = [engine.add_request(prompt_of(100, n), greedy(8)) for n in range(2)]
    assert engine.metrics().num_waiting == 2
    engine.step()
    now = engine.metrics()
    assert now.num_running == 2
    assert 0 < now.owners["running"] == now.used_bytes < now.pool_bytes
    engine.cancel(requests[0])
    finish(engine, *requests)
    told = engine.metrics()
    assert (told.ended.num_finished, told.ended.num_cancelled, told.ended.num_generated_tokens) == (
        1,
        1,
        9,
    )
    assert told.ended.num_preemptions is None
    assert told.num_prefix_hits is None
    assert told.ended.ttft.count == 2
