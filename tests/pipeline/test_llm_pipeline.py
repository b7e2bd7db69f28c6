"""``LLMPipeline`` beside openvino_genai's: same calls, same answers, better manners."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.errors import (
    ConfigError,
    DeviceError,
    ModelError,
    PromptError,
    UnsupportedError,
)

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
TEXT = "Below is a text. The fierce statue costs 4229 coins. How many coins does it cost?"
BUDGET = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24)


@pytest.fixture(scope="module")
def ours(needle_f32_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_f32_dir, "CPU", EXACT)


@pytest.fixture(scope="module")
def theirs(needle_f32_dir: Path) -> genai.LLMPipeline:
    # The precision of the cache is in the IR, f32, for both.
    return genai.LLMPipeline(needle_f32_dir, "CPU", **EXACT)


@pytest.fixture
def evicting(needle_f32_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_f32_dir, kv_cache_config=BUDGET, **EXACT)


def used_bytes(pipe: LLMPipeline) -> int:
    """Without the prefixes that are kept for others."""
    pipe.loaded_model.engine.prefixes.clear()  # type: ignore[attr-defined]
    return int(pipe.get_metrics()["kv_cache"]["used_bytes"])


def document(seed: int = 0) -> str:
    """About 250 tokens that do not fit the budget."""
    words = np.random.default_rng(seed).integers(100, 999, 60)
    return " ".join(f"Room {n} is {w}." for n, w in enumerate(words))


# ------------------------------------------------------------------ the same as openvino_genai


def test_a_text_gives_a_text(ours: LLMPipeline, theirs: genai.LLMPipeline) -> None:
    answer = ours.generate(TEXT, max_new_tokens=20)
    assert isinstance(answer, str)
    assert answer == theirs.generate(TEXT, max_new_tokens=20)


def test_texts_give_results(ours: LLMPipeline, theirs: genai.LLMPipeline) -> None:
    texts = [TEXT, "Hello", document()]
    mine, wanted = (p.generate(texts, max_new_tokens=12) for p in (ours, theirs))
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
    assert ours.generate(history).texts == theirs.generate(history).texts
    assert len(history.get_messages()) == 1


def test_ids_give_ids(ours: LLMPipeline, theirs: genai.LLMPipeline) -> None:
    tokens = ours.get_tokenizer().encode([TEXT, "Hello"])
    mine, wanted = (p.generate(tokens, max_new_tokens=8) for p in (ours, theirs))
    assert mine.tokens == wanted.tokens
    one = ov.Tensor(tokens.input_ids.data[:1])
    assert ours.generate(one, max_new_tokens=8).tokens == mine.tokens[:1]


def test_metrics_can_be_had_as_json(ours: LLMPipeline) -> None:
    before = ours.get_metrics()
    ours.generate([TEXT, "Hello"], max_new_tokens=4, ignore_eos=True)
    after = json.loads(json.dumps(ours.get_metrics()))
    assert after["requests"]["finished"] == before["requests"]["finished"] + 2
    assert after["tokens"]["generated"] == before["tokens"]["generated"] + 8
    assert after["ttft_seconds"]["count"] == after["ttft_seconds"]["buckets"]["+Inf"]
    assert len(after["last"]) == 2


def test_untemplated_text_is_read_as_it_is(ours: LLMPipeline, theirs: genai.LLMPipeline) -> None:
    raw = {"apply_chat_template": False, "max_new_tokens": 8}
    assert ours.generate(TEXT, **raw) == theirs.generate(TEXT, **raw)


def test_several_sequences_of_a_text_are_results_best_first(ours: LLMPipeline) -> None:
    results = ours.generate(TEXT, do_sample=True, num_return_sequences=3, max_new_tokens=5)
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
    pipe = LLMPipeline(needle_f32_dir, tokenizer, "cpu", EXACT)
    assert pipe.get_tokenizer() is tokenizer
    assert pipe.describe()["inference_precision"] == "f32"


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
    assert told["pool_tokens"] == 40 * 32
    config = told["kv_cache_config"]
    # Its KVCrush comes on top of its size; our total has both.
    assert config["max_cache_size"] == 128 + 64
    assert (config["representatives"], config["anchor"]) == ("rank", "alternate")
    assert config["representative_share"] == pytest.approx(64 / 128)
    results = pipe.generate([document()], max_new_tokens=4)
    assert results.metrics[0].kv_tokens <= 192 + 4


# ------------------------------------------------------------------ chats


def test_a_chat_reads_only_the_new_turn(evicting: LLMPipeline) -> None:
    chat = evicting.chat("You read numbers.")
    first = chat.ask(f"{document()} What is room 7?")
    second = chat.ask("And room 8?")
    assert first.metrics[0].num_reused_tokens == 0
    metrics = second.metrics[0]
    assert metrics.restarted == ""
    assert metrics.num_prompt_tokens - metrics.num_reused_tokens < 20
    assert metrics.kv_tokens <= 96 + 20
    assert [m["role"] for m in chat.messages] == ["system"] + 2 * ["user", "assistant"]
    chat.close()
    assert used_bytes(evicting) == 0


def test_a_chat_without_eviction_answers_like_openvino_genai(
    ours: LLMPipeline, theirs: genai.LLMPipeline
) -> None:
    chat = ours.chat()
    history = genai.ChatHistory()
    for question in (f"{document()} What is room 7?", "And room 8?", "Which room is first?"):
        history.append({"role": "user", "content": question})
        wanted = theirs.generate(history, max_new_tokens=16).texts[0]
        history.append({"role": "assistant", "content": wanted})
        assert chat.ask(question, max_new_tokens=16).texts[0] == wanted
    chat.close()


def test_start_chat_keeps_a_conversation(ours: LLMPipeline) -> None:
    ours.start_chat()
    ours.generate("Hello, I am Ada.", max_new_tokens=8)
    ours.generate("Who am I?", max_new_tokens=8)
    assert ours.get_metrics()["last"][0]["num_reused_tokens"] > 8
    ours.finish_chat()
    ours.generate("Who am I?", max_new_tokens=8)
    assert ours.get_metrics()["last"][0]["num_reused_tokens"] == 0


def test_a_growing_history_finds_its_cache_again(evicting: LLMPipeline) -> None:
    messages = [{"role": "user", "content": document()}]
    other = genai.ChatHistory([{"role": "user", "content": document(1)}])
    answer = evicting.generate(genai.ChatHistory(messages)).texts[0]
    evicting.generate(other)
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "Go on."}]
    metrics = evicting.generate(genai.ChatHistory(messages)).metrics[0]
    assert metrics.num_prompt_tokens - metrics.num_reused_tokens < 20


def test_an_edited_history_starts_over_and_says_so(evicting: LLMPipeline) -> None:
    chat = evicting.chat()
    chat.ask(f"{document()} What is room 7?")
    chat.set_system_message("Be brief.")
    metrics = chat.ask("And room 8?").metrics[0]
    assert metrics.num_reused_tokens == 0
    assert "differs from the cached one" in metrics.restarted


def test_a_question_can_be_taken_back_and_asked_again(ours: LLMPipeline) -> None:
    chat = ours.chat()
    with pytest.raises(PromptError, match="no answer to take back"):
        chat.take_back()
    first = chat.ask(TEXT, max_new_tokens=8)
    assert chat.take_back() == TEXT
    again = chat.ask(TEXT, max_new_tokens=8)
    assert again.texts == first.texts
    assert again.metrics[0].num_reused_tokens == again.metrics[0].num_prompt_tokens - 1
    chat.close()


# ------------------------------------------------------------------ streaming and stopping


class Collector(genai.StreamerBase):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[int] = []
        self.ended = 0

    def write(self, token: int | list[int]) -> genai.StreamingStatus:
        self.tokens += [token] if isinstance(token, int) else token
        return genai.StreamingStatus.RUNNING

    def end(self) -> None:
        self.ended += 1


def test_pieces_of_text_add_up_to_the_answer(ours: LLMPipeline) -> None:
    pieces: list[str] = []
    answer = ours.generate(TEXT, streamer=pieces.append, ignore_eos=True, max_new_tokens=20)
    assert len(pieces) > 2
    assert "".join(pieces) == answer


def test_a_streamer_object_gets_the_tokens_and_an_end(ours: LLMPipeline) -> None:
    ids = ours.get_tokenizer().encode(TEXT).input_ids
    collector = Collector()
    results = ours.generate(ids, streamer=collector, max_new_tokens=9, ignore_eos=True)
    assert collector.tokens == results.tokens[0]
    assert collector.ended == 1


@pytest.mark.parametrize("answer", [True, genai.StreamingStatus.STOP, genai.StreamingStatus.CANCEL])
def test_a_streamer_can_stop_the_answer(ours: LLMPipeline, answer: object) -> None:
    before = used_bytes(ours)
    ours.generate(TEXT, streamer=lambda text: answer, ignore_eos=True, max_new_tokens=50)
    assert ours.get_metrics()["last"][0]["num_generated_tokens"] < 10
    assert used_bytes(ours) == before


def test_a_raising_streamer_raises_its_own_error_and_leaves_nothing(ours: LLMPipeline) -> None:
    def faulty(text: str) -> None:
        raise ZeroDivisionError("mine")

    before = used_bytes(ours)
    with pytest.raises(ZeroDivisionError, match="mine"):
        ours.generate(TEXT, streamer=faulty)
    assert used_bytes(ours) == before
    assert isinstance(ours.generate(TEXT, max_new_tokens=3), str)


def test_a_streamer_that_raises_in_a_chat_leaves_the_conversation_as_it_was(
    ours: LLMPipeline,
) -> None:
    chat = ours.chat()
    chat.ask(TEXT, max_new_tokens=4)
    before = list(chat.messages)
    with pytest.raises(KeyError):
        chat.ask("Again?", streamer=lambda text: {}["nothing"])
    assert chat.messages == before
    assert chat.ask("Again?", max_new_tokens=4).metrics[0].num_reused_tokens > 0
    chat.close()


def test_one_streamer_cannot_show_several_answers(ours: LLMPipeline) -> None:
    with pytest.raises(ConfigError, match="shows one sequence"):
        ours.generate([TEXT, TEXT], streamer=print)
    with pytest.raises(ConfigError, match="not a int"):
        ours.generate(TEXT, streamer=3)


@pytest.fixture
def interrupt_soon() -> Iterator[None]:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    yield
    timer.cancel()


@pytest.mark.usefixtures("interrupt_soon")
def test_ctrl_c_ends_generate_and_leaves_nothing(ours: LLMPipeline) -> None:
    handler, before = signal.getsignal(signal.SIGINT), used_bytes(ours)
    with pytest.raises(KeyboardInterrupt):
        ours.generate(TEXT, ignore_eos=True, max_new_tokens=100_000)
    assert signal.getsignal(signal.SIGINT) == handler
    assert used_bytes(ours) == before


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


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "TPU"}, DeviceError, "'TPU' is not a device"),
        ({"engine": "vllm"}, ConfigError, "unknown engine 'vllm'"),
        ({"KV_CACHE_PRECISON": "u8"}, ConfigError, "Did you mean 'KV_CACHE_PRECISION'"),
        ({"tokenizer": None, "max_cache_size": 9}, ConfigError, "'max_cache_size'"),
    ],
)
def test_bad_arguments_are_refused_at_construction(
    needle_f32_dir: Path, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LLMPipeline(needle_f32_dir, **arguments)


def test_settings_of_openvino_genai_without_counterpart_are_refused(needle_f32_dir: Path) -> None:
    scheduler = genai.SchedulerConfig()
    scheduler.use_cache_eviction = True
    scheduler.cache_eviction_config = genai.CacheEvictionConfig(
        32, 32, 128, genai.AggregationMode.ADAPTIVE_RKV
    )
    with pytest.raises(UnsupportedError, match="ADAPTIVE_RKV"):
        LLMPipeline(needle_f32_dir, scheduler_config=scheduler)


def test_an_ir_without_tokenizer_is_refused(needle_f32_dir: Path, tmp_path: Path) -> None:
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (tmp_path / name).symlink_to(needle_f32_dir / name)
    with pytest.raises(ModelError, match=r"holds no openvino_tokenizer\.xml"):
        LLMPipeline(tmp_path)


def test_a_folder_without_plan_runs_as_a_plain_export(
    needle_f32_dir: Path, tmp_path: Path, ours: LLMPipeline
) -> None:
    for path in needle_f32_dir.iterdir():
        if path.name != "ov_kvcrush.json":
            (tmp_path / path.name).symlink_to(path)
    plain = LLMPipeline(tmp_path, "CPU", EXACT)
    assert plain.generate(TEXT) == ours.generate(TEXT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"version": 3', '"version": 99'), "has format version 99"),
        (lambda text: text.replace('"fingerprint": "', '"fingerprint": "0'), "another model"),
        (lambda text: text[:100], "cannot be read"),
        (lambda text: text.replace('"num_kv_heads"', '"heads"'), "is damaged"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    needle_f32_dir: Path, tmp_path: Path, change: object, message: str
) -> None:
    for path in needle_f32_dir.iterdir():
        if path.name == "ov_kvcrush.json":
            (tmp_path / path.name).write_text(change(path.read_text()))  # type: ignore[operator]
        else:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ModelError, match=message):
        LLMPipeline(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "kwargs", "error", "message"),
    [
        ("", {}, PromptError, "the prompt is empty"),
        ("half \ud800", {}, PromptError, "half a character at position 5"),
        ([], {}, PromptError, "neither a text"),
        (3, {}, PromptError, "neither a text"),
        ([TEXT, 3], {}, PromptError, "neither a text"),
        (TEXT, {"max_new_token": 3}, ConfigError, "Did you mean 'max_new_tokens'"),
        (TEXT, {"num_beams": 4}, UnsupportedError, "beam search"),
        (TEXT, {"temperature": -1.0, "do_sample": True}, ConfigError, "temperature"),
    ],
)
def test_bad_calls_are_refused(
    ours: LLMPipeline,
    inputs: object,
    kwargs: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        ours.generate(inputs, **kwargs)  # type: ignore[arg-type]


def test_a_prompt_longer_than_the_pool_is_refused(needle_f32_dir: Path) -> None:
    config = KVCacheConfig(pool_size=128)
    pipe = LLMPipeline(needle_f32_dir, kv_cache_config=config)
    with pytest.raises(PromptError, match="does not fit the KV cache: the pool holds 128 tokens"):
        pipe.generate(document())
    chat = pipe.chat()
    chat.ask("Hello", max_new_tokens=4)
    with pytest.raises(PromptError, match="does not fit"):
        chat.ask(document())
    assert chat.ask("Still there?", max_new_tokens=4).metrics[0].num_reused_tokens > 0


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
