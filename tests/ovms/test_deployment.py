"""What OpenVINO Model Server is told of a model, read as it reads it, and what it is kept from."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino_genai import (
    AggregationMode,
    CacheEvictionConfig,
    ContinuousBatchingPipeline,
    GenerationConfig,
    KVCrushAnchorPointMode,
    KVCrushConfig,
    SchedulerConfig,
)

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError, ModelError, OVKVCrushError, UnsupportedError
from ov_kvcrush.ovms.deployment import Deployment, plan_deployment
from ov_kvcrush.ovms.release import Release
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.precisions import LayerPrecision
from tests.support.engines import GENAI_EVICTING, prompt_of
from tests.support.model_factory import replanned
from tests.support.ovms_proto import parse_graph, sync_sets
from tests.support.paths import ROOT

EVICTING = dataclasses.replace(GENAI_EVICTING, pool_size=None)


def options_of(deployment: Deployment) -> Any:
    return parse_graph(deployment.graph.to_text())[1]


def scheduler_of(options: Any) -> SchedulerConfig:
    """What the server hands to openvino_genai of a graph's options."""
    scheduler = SchedulerConfig()
    for name in (
        "max_num_batched_tokens",
        "cache_size",
        "dynamic_split_fuse",
        "max_num_seqs",
        "enable_prefix_caching",
    ):
        setattr(scheduler, name, getattr(options, name))
    scheduler.use_cache_eviction = options.HasField("cache_eviction_config")
    if scheduler.use_cache_eviction:
        given = options.cache_eviction_config
        crush = given.kv_crush_config
        scheduler.cache_eviction_config = CacheEvictionConfig(
            given.start_size,
            given.recent_size,
            given.max_cache_size,
            (AggregationMode.SUM, AggregationMode.NORM_SUM)[given.aggregation_mode],
            given.apply_rotation,
            given.snapkv_window_size,
            KVCrushConfig(
                crush.budget,
                KVCrushAnchorPointMode(crush.anchor_point_mode),
                crush.rng_seed,
            ),
        )
    return scheduler


def said_by(eviction: CacheEvictionConfig) -> tuple[Any, ...]:
    crush = eviction.kvcrush_config
    return (
        eviction.get_start_size(),
        eviction.get_recent_size(),
        eviction.get_max_cache_size(),
        eviction.aggregation_mode,
        eviction.apply_rotation,
        eviction.snapkv_window_size,
        crush.budget,
        crush.anchor_point_mode,
        crush.rng_seed,
    )


@pytest.fixture(scope="module")
def evicting(needle_int8_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Written to a folder of its own."""
    output = tmp_path_factory.mktemp("ovms") / "needle-ovms"
    deployment = plan_deployment(needle_int8_dir, EVICTING, output, "org/needle", cache_size=1)
    deployment.write()
    return deployment


def test_the_files_lead_the_server_to_the_model(
    evicting: Deployment, needle_int8_dir: Path
) -> None:
    config = json.loads(evicting.config_file.read_text())
    (served,) = config["model_config_list"]
    assert served["config"]["name"] == "org/needle"
    graph = evicting.config_file.parent / served["config"]["base_path"] / "graph.pbtxt"
    options = parse_graph(graph.read_text())[1]
    assert (graph.parent / options.models_path).samefile(needle_int8_dir)
    # The server would take one beside the graph for a file of its own kind.
    assert os.listdir(graph.parent) == ["graph.pbtxt"]


def test_the_graph_is_a_loop_around_the_servers_calculator(evicting: Deployment) -> None:
    graph, _ = parse_graph(evicting.graph_file.read_text())
    (node,) = graph.node
    assert [*graph.input_stream] == ["HTTP_REQUEST_PAYLOAD:input"]
    assert [*graph.output_stream] == ["HTTP_RESPONSE_PAYLOAD:output"]
    assert node.calculator == "HttpLLMCalculator"
    assert [*node.input_stream] == ["LOOPBACK:loopback", *graph.input_stream]
    assert [*node.output_stream] == ["LOOPBACK:loopback", *graph.output_stream]
    assert [*node.input_side_packet] == [
        "LLM_NODE_RESOURCES:llm",
        "LLM_NODE_EXECUTION_CONTEXTS:llm_ctx",
    ]
    (back,) = node.input_stream_info
    assert (back.tag_index, back.back_edge) == ("LOOPBACK:0", True)
    assert node.input_stream_handler.input_stream_handler == "SyncSetInputStreamHandler"
    assert sync_sets(node) == [["LOOPBACK:0"]]


def test_older_releases_are_not_given_what_they_would_refuse(needle_int8_dir: Path) -> None:
    old = plan_deployment(needle_int8_dir, EVICTING, release=Release.parse("2026.1"))
    (node,) = parse_graph(old.graph.to_text())[0].node
    assert [*node.input_side_packet] == ["LLM_NODE_RESOURCES:llm"]


def test_its_eviction_is_what_our_genai_engine_asks_for(evicting: Deployment) -> None:
    options = options_of(evicting)
    scheduler = scheduler_of(options)
    assert evicting.eviction is not None
    asked = evicting.eviction.to_genai()
    assert said_by(scheduler.cache_eviction_config) == said_by(asked)
    crush = options.cache_eviction_config.kv_crush_config
    # 256 in all: 96 at the ends, and of the 5 blocks between them 2 of representatives.
    assert options.cache_eviction_config.max_cache_size == 192
    assert crush.budget == 2
    assert options.HasField("enable_prefix_caching")
    assert not options.enable_prefix_caching


def test_openvino_genai_answers_and_evicts_by_the_graphs_numbers(
    evicting: Deployment, needle_int8_dir: Path
) -> None:
    options = options_of(evicting)
    properties = json.loads(options.plugin_config or "{}")
    pipeline = ContinuousBatchingPipeline(
        needle_int8_dir, scheduler_of(options), options.device, **properties
    )
    config = GenerationConfig(max_new_tokens=8, ignore_eos=True)
    used = []
    for number in range(2):
        prompt = ov.Tensor(np.array([prompt_of(700)], np.int64))
        handle = pipeline.add_request(number, prompt, config)
        steps = []
        while pipeline.has_non_finished_requests():
            pipeline.step()
            steps.append(pipeline.get_metrics().cache_usage)
        assert sum(len(out.generated_ids) for out in iter_outputs(handle)) == 8
        used.append(steps)
    # 22 pages of the prompt, of which 8 are left behind it; and nothing stays for the next one.
    assert used[0] == used[1]
    assert used[0][-2] / used[0][0] == pytest.approx(8 / 22, rel=0.2)


def iter_outputs(handle: Any) -> list[Any]:
    outputs = []
    while handle.can_read():
        outputs += handle.read().values()
    return outputs


def test_without_a_budget_nothing_is_evicted_and_prompts_share_their_beginnings(
    needle_int8_dir: Path,
) -> None:
    for caching in (True, False):
        config = KVCacheConfig(prefix_caching=caching)
        options = options_of(plan_deployment(needle_int8_dir, config))
        assert not options.HasField("cache_eviction_config")
        assert options.enable_prefix_caching == caching


REPEATED = """
import sys
import numpy as np, openvino as ov
from openvino_genai import (
    CacheEvictionConfig, AggregationMode, ContinuousBatchingPipeline, GenerationConfig,
    SchedulerConfig,
)
scheduler = SchedulerConfig()
scheduler.max_num_batched_tokens = 2048
scheduler.enable_prefix_caching = True
scheduler.use_cache_eviction = True
scheduler.cache_eviction_config = CacheEvictionConfig(32, 64, 192, AggregationMode.SUM)
pipeline = ContinuousBatchingPipeline(sys.argv[1], scheduler, "CPU")
prompt = ov.Tensor(np.random.default_rng(0).integers(10, 4000, (1, 1000)))
for number in range(3):
    config = GenerationConfig(max_new_tokens=100, ignore_eos=True)
    handle = pipeline.add_request(number, prompt, config)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    print("answered", flush=True)
"""


def test_a_repeated_prefix_still_fails_where_it_evicts_and_caches_prefixes(
    needle_int8_dir: Path,
) -> None:
    # Once it does not, a chat's cache could be kept between its turns there.
    run = subprocess.run(
        [sys.executable, "-c", REPEATED, str(needle_int8_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.stdout == "answered\n"
    assert run.returncode != 0
    assert "is_all_free" in run.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"importance": "h2o"}, "importance 'h2o'"),
        ({"representatives": "gate"}, "representatives 'gate'"),
        ({"layer_budgets": "pyramid"}, "layer_budgets 'pyramid'"),
        ({"prefill_budget": 256}, "prefill_budget 256"),
        ({"max_cache_size": 0, "kv_budget_mb": 40.0}, "kv_budget_mb"),
        ({"max_cache_size": 250}, "not a multiple of the page size"),
        ({"pool_size": 2048}, "its pool in GB"),
        ({"key_cache_precision": "u4"}, "damages its memory"),
        ({"key_cache_precision": "f32"}, "cannot hold keys in f32 with values in u8"),
    ],
    ids=str,
)
def test_what_it_cannot_do_or_would_die_of_is_refused(
    needle_int8_dir: Path, change: dict[str, Any], message: str
) -> None:
    asked: dict[str, Any] = {**EVICTING.to_dict(), "value_cache_precision": "u8", **change}
    with pytest.raises(OVKVCrushError, match=message) as refused:
        plan_deployment(needle_int8_dir, KVCacheConfig(**asked))
    assert refused.value.hint
    assert "paged engine" not in refused.value.hint


def test_u4_needs_a_pool_that_does_not_grow(needle_int8_dir: Path) -> None:
    config = dataclasses.replace(EVICTING, key_cache_precision="u4", value_cache_precision="u4")
    deployment = plan_deployment(needle_int8_dir, config, cache_size=1)
    options = options_of(deployment)
    assert options.cache_size == 1
    assert json.loads(options.plugin_config) == {
        "KEY_CACHE_PRECISION": "u4",
        "VALUE_CACHE_PRECISION": "u4",
    }
    as_exported = plan_deployment(needle_int8_dir, EVICTING, cache_size=1)
    assert not options_of(as_exported).HasField("plugin_config")
    assert deployment.pool_tokens is not None
    assert as_exported.pool_tokens is not None
    assert 1.5 < deployment.pool_tokens / as_exported.pool_tokens < 2


def test_several_precisions_in_the_plan_are_refused_unless_one_is_chosen(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    plan = KVPlan.load(needle_int8_dir)
    assert plan is not None
    others = len(plan.layers) - 1
    several = replanned(
        tmp_path,
        needle_int8_dir,
        [LayerPrecision("u8", "u4"), *others * [LayerPrecision("u8", "u8")]],
    )
    with pytest.raises(ConfigError, match="several precisions") as refused:
        plan_deployment(several, EVICTING, cache_size=1)
    assert "ov-kvcrush serve" in refused.value.hint
    chosen = dataclasses.replace(EVICTING, key_cache_precision="u8", value_cache_precision="u8")
    assert "u8" in options_of(plan_deployment(several, chosen)).plugin_config


def test_a_draft_model_is_refused_where_anything_is_evicted(needle_int8_dir: Path) -> None:
    with pytest.raises(UnsupportedError, match="draft models fail"):
        plan_deployment(needle_int8_dir, EVICTING, draft_model=needle_int8_dir)
    deployment = plan_deployment(needle_int8_dir, KVCacheConfig(), draft_model=needle_int8_dir)
    options = options_of(deployment)
    assert options.draft_models_path == options.models_path


@pytest.mark.parametrize("device", ["NPU", "AUTO", ""])
def test_devices_without_pages_are_refused(needle_int8_dir: Path, device: str) -> None:
    with pytest.raises(UnsupportedError, match="is not a device"):
        plan_deployment(needle_int8_dir, EVICTING, device=device)


def test_a_gpus_blocks_are_half_as_long(needle_int8_dir: Path) -> None:
    options = options_of(plan_deployment(needle_int8_dir, EVICTING, device="gpu.1"))
    crush = options.cache_eviction_config.kv_crush_config
    assert options.device == "GPU.1"
    assert options.cache_eviction_config.max_cache_size + 16 * crush.budget == 256


def test_files_that_are_there_are_replaced_only_on_purpose(
    evicting: Deployment, needle_int8_dir: Path
) -> None:
    written = evicting.graph_file.read_text()
    other = plan_deployment(needle_int8_dir, KVCacheConfig(), evicting.output)
    with pytest.raises(ConfigError, match="exists"):
        other.write()
    assert evicting.graph_file.read_text() == written
    other.write(overwrite=True)
    assert evicting.graph_file.read_text() != written
    evicting.write(overwrite=True)


def test_the_models_own_files_are_never_touched(needle_int8_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model's own folder"):
        plan_deployment(needle_int8_dir, EVICTING, needle_int8_dir)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="is a file"):
        plan_deployment(needle_int8_dir, EVICTING, file)
    with pytest.raises(OVKVCrushError, match="cannot make"):
        plan_deployment(needle_int8_dir, EVICTING, file / "below").write()
    assert plan_deployment(needle_int8_dir, EVICTING).output.parent == needle_int8_dir.parent


@pytest.mark.parametrize("name", ["", " needle", "a\nb"])
def test_what_is_not_a_name_is_refused(needle_int8_dir: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a name"):
        plan_deployment(needle_int8_dir, EVICTING, name=name)


def test_a_folder_without_tokenizer_is_refused(needle_int8_dir: Path, tmp_path: Path) -> None:
    for name in ("openvino_model.xml", "openvino_model.bin"):
        shutil.copy(needle_int8_dir / name, tmp_path)
    with pytest.raises(ModelError, match="openvino_tokenizer"):
        plan_deployment(tmp_path, EVICTING)
    assert KVPlan.load(tmp_path) is None
