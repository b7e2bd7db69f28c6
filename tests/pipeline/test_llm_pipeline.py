"""``LLMPipeline`` beside openvino_genai's: same calls, same answers, better manners."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import weakref
from contextlib import closing
from pathlib import Path
from typing import Any

import openvino as ov
import openvino_genai as genai
import pytest

from ov_kvcrush import LLMPipeline
from tests.support.answers import decoded, encoded
from tests.support.engines import F32
from tests.support.folders import linked
from tests.support.pipelines import BUDGET, TEXT
from tests.support.texts import document


def test_a_text_gives_a_text(ours: LLMPipeline, theirs: genai.LLMPipeline) -> None:
    answer = ours.generate(TEXT, max_new_tokens=20)
    assert isinstance(answer, str)
    assert answer == theirs.generate(TEXT, max_new_tokens=20)


def test_texts_give_results(ours: LLMPipeline, theirs: genai.LLMPipeline) -> None:
    texts = [TEXT, "Hello", document()]
    mine = decoded(ours.generate(texts, max_new_tokens=12))
    wanted = theirs.generate(texts, max_new_tokens=12)
    assert mine.texts == wanted.texts
    assert mine.scores == wanted.scores
    assert mine.finish_reasons == wanted.finish_reasons
    assert str(mine) == "\n".join(mine.texts)
    assert mine.perf_metrics.get_num_generated_tokens() == (
        wanted.perf_metrics.get_num_generated_tokens()
    )
    assert mine.perf_metrics.get_ttft().mean > 0


def test_a_history_gives_results_and_is_not_changed(
    ours: LLMPipeline, theirs: genai.LLMPipeline
) -> None:
    history = genai.ChatHistory([{"role": "user", "content": TEXT}])
    assert decoded(ours.generate(history)).texts == theirs.generate(history).texts
    assert len(history.get_messages()) == 1


def test_ids_give_ids(ours: LLMPipeline, theirs: genai.LLMPipeline) -> None:
    tokens = ours.get_tokenizer().encode([TEXT, "Hello"])
    mine = encoded(ours.generate(tokens, max_new_tokens=8))
    assert mine.tokens == theirs.generate(tokens, max_new_tokens=8).tokens
    one = ov.Tensor(tokens.input_ids.data[:1])
    assert encoded(ours.generate(one, max_new_tokens=8)).tokens == mine.tokens[:1]


def test_metrics_can_be_had_as_json(ours: LLMPipeline) -> None:
    before = ours.get_metrics()
    ours.generate([TEXT, "Hello"], max_new_tokens=4, ignore_eos=True)
    after = json.loads(json.dumps(ours.get_metrics()))
    assert after["requests"]["finished"] == before["requests"]["finished"] + 2
    assert after["tokens"]["generated"] == before["tokens"]["generated"] + 8
    assert after["ttft_seconds"]["count"] == after["ttft_seconds"]["buckets"]["+Inf"]
    assert len(after["last"]) == 2


def test_untemplated_text_is_read_as_it_is(ours: LLMPipeline, theirs: genai.LLMPipeline) -> None:
    raw: dict[str, Any] = {"apply_chat_template": False, "max_new_tokens": 8}
    assert ours.generate(TEXT, **raw) == theirs.generate(TEXT, **raw)


def test_several_sequences_of_a_text_are_results_best_first(ours: LLMPipeline) -> None:
    results = decoded(ours.generate(TEXT, do_sample=True, num_return_sequences=3, max_new_tokens=5))
    assert len(results.texts) == 3
    assert results.scores == sorted(results.scores, reverse=True)


def test_the_generation_config_can_be_replaced_and_never_leaks(ours: LLMPipeline) -> None:
    config = ours.get_generation_config()
    assert config.eos_token_id == 2
    config.max_new_tokens = 3
    assert ours.get_generation_config().max_new_tokens == 64
    ours.set_generation_config(config)
    try:
        assert ours.generate(TEXT, ignore_eos=True) == ours.generate(
            TEXT, ignore_eos=True, max_new_tokens=3
        )
    finally:
        config.max_new_tokens = 64
        ours.set_generation_config(config)


def test_arguments_may_stand_in_either_of_openvino_genais_orders(needle_f32_dir: Path) -> None:
    tokenizer = genai.Tokenizer(needle_f32_dir)
    pipe = LLMPipeline(needle_f32_dir, tokenizer, "cpu", F32)
    assert pipe.get_tokenizer() is tokenizer
    assert pipe.describe().to_dict()["inference_precision"] == "f32"


def test_openvino_genais_cache_settings_are_obeyed(needle_f32_dir: Path) -> None:
    scheduler = genai.SchedulerConfig()
    scheduler.use_cache_eviction = True
    scheduler.num_kv_blocks = 40
    scheduler.cache_eviction_config = genai.CacheEvictionConfig(
        32, 32, 128, genai.AggregationMode.SUM,
        kvcrush_config=genai.KVCrushConfig(2, genai.KVCrushAnchorPointMode.ALTERNATING),
    )  # fmt: skip
    pipe = LLMPipeline(needle_f32_dir, scheduler_config=scheduler)
    told = pipe.describe()
    assert told.pool_tokens == 40 * 32
    config = told.kv_cache_config
    # Its KVCrush comes on top of its size; our total has both.
    assert config.max_cache_size == 128 + 64
    assert (config.representatives, config.anchor) == ("rank", "alternate")
    assert config.representative_share == pytest.approx(64 / 128)
    results = decoded(pipe.generate([document()], max_new_tokens=4))
    assert results.metrics[0].kv_tokens <= 192 + 4


def test_calls_from_several_threads_take_turns(ours: LLMPipeline) -> None:
    wanted = ours.generate(TEXT, max_new_tokens=8)
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ours.generate(TEXT, max_new_tokens=8)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [wanted] * 4


# ------------------------------------------------------------------ coming and going


def test_a_folder_without_plan_runs_as_a_plain_export(
    needle_f32_dir: Path, tmp_path: Path, ours: LLMPipeline
) -> None:
    folder = linked(needle_f32_dir, tmp_path, without="ov_kvcrush.json")
    plain = LLMPipeline(folder, "CPU", F32)
    assert plain.generate(TEXT) == ours.generate(TEXT)


def test_a_pipeline_frees_its_model_and_pages_with_the_last_reference(needle_f32_dir: Path) -> None:
    pipe = LLMPipeline(needle_f32_dir, kv_cache_config=BUDGET)
    pipe.generate(genai.ChatHistory([{"role": "user", "content": document()}]), max_new_tokens=2)
    with closing(pipe.chat()) as chat:
        chat.ask("Hello", max_new_tokens=2)
    engine = weakref.ref(pipe.loaded_model.engine)
    # Left to the garbage collector, the pools of many pipelines would pile up.
    gc.disable()
    try:
        del pipe, chat
        assert engine() is None
    finally:
        gc.enable()


def test_importing_the_package_starts_nothing() -> None:
    code = "import sys, ov_kvcrush; sys.exit('openvino' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
