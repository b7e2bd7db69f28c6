"""Programs as they are written for openvino_genai run here when their import is changed.

Each is a function of the module that it would import; written here after that library's interface.
"""

from __future__ import annotations

import queue
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import openvino as ov
import openvino_genai
import pytest

import ov_kvcrush
from ov_kvcrush.errors import UnsupportedError
from tests.support.engines import F32
from tests.support.pipelines import TEXT

MODULES = [pytest.param(openvino_genai, id="theirs"), pytest.param(ov_kvcrush, id="ours")]


def answer_greedily(genai: Any, folder: Path) -> str:
    pipe = genai.LLMPipeline(folder, "CPU", **F32)
    config = genai.GenerationConfig()
    config.max_new_tokens = 20
    return str(pipe(TEXT, config))


def chat(genai: Any, folder: Path, questions: list[str]) -> tuple[list[str], str]:
    """The answers, and what was streamed of them."""
    pieces: list[str] = []

    def show(piece: str) -> Any:
        pieces.append(piece)
        return genai.StreamingStatus.RUNNING

    pipe = genai.LLMPipeline(folder, "CPU", **F32)
    config = genai.GenerationConfig()
    config.max_new_tokens = 10
    history = genai.ChatHistory()
    answers = []
    for question in questions:
        history.append({"role": "user", "content": question})
        results: genai.DecodedResults = pipe.generate(history, config, show)
        history.append({"role": "assistant", "content": results.texts[0]})
        answers.append(results.texts[0])
    return answers, "".join(pieces)


def sample_from_a_thread(genai: Any, folder: Path) -> tuple[str, str]:
    """The answer, and what another thread has read of it."""

    class Pieces(genai.StreamerBase):  # type: ignore[misc]
        def __init__(self, tokenizer: Any) -> None:
            super().__init__()
            self.tokenizer = tokenizer
            self.tokens: list[int] = []
            self.texts: queue.Queue[str | None] = queue.Queue()

        def write(self, token: int | list[int]) -> Any:
            self.tokens += token if isinstance(token, list) else [token]
            self.texts.put(self.tokenizer.decode(self.tokens))
            return genai.StreamingStatus.RUNNING

        def end(self) -> None:
            self.texts.put(None)

    pipe = genai.LLMPipeline(folder, "CPU")
    pieces = Pieces(pipe.get_tokenizer())
    read: list[str] = []

    def reader() -> None:
        while (text := pieces.texts.get()) is not None:
            read.append(text)

    thread = threading.Thread(target=reader)
    thread.start()
    config = genai.GenerationConfig()
    config.max_new_tokens = 12
    config.do_sample = True
    config.top_p = 0.9
    config.top_k = 30
    answer = pipe.generate(TEXT, config, pieces)
    thread.join()
    return str(answer), read[-1]


def measure(genai: Any, folder: Path, num_iterations: int) -> dict[str, float]:
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    scheduler.max_num_batched_tokens = sys.maxsize
    pipe = genai.LLMPipeline(folder, "CPU", scheduler_config=scheduler)
    config = genai.GenerationConfig()
    config.max_new_tokens = 5
    config.ignore_eos = True
    config.apply_chat_template = False
    size = pipe.get_tokenizer().encode([TEXT]).input_ids.get_shape()[1]
    metrics = pipe.generate([TEXT], config).perf_metrics
    for _ in range(num_iterations - 1):
        metrics += pipe.generate([TEXT], config).perf_metrics
    raw = metrics.raw_metrics
    return {
        "prompt": size,
        "input": metrics.get_num_input_tokens(),
        "generated": metrics.get_num_generated_tokens(),
        "load": metrics.get_load_time(),
        "generate": metrics.get_generate_duration().mean,
        "inference": metrics.get_inference_duration().mean,
        "tokenization": metrics.get_tokenization_duration().mean,
        "detokenization": metrics.get_detokenization_duration().mean,
        "sampling": metrics.get_sampling_duration().mean,
        "ttft": metrics.get_ttft().mean,
        "tpot": metrics.get_tpot().mean,
        "ipot": metrics.get_ipot().mean,
        "throughput": metrics.get_throughput().mean,
        "calls": len(raw.generate_durations),
        "steps": len(raw.m_new_token_times),
        "batches": sum(raw.m_batch_sizes),
        "gaps": len(raw.m_durations),
        "inferences": len(raw.token_infer_durations),
    }


def test_greedy_answers_are_the_same(needle_f32_dir: Path) -> None:
    ours = answer_greedily(ov_kvcrush, needle_f32_dir)
    assert ours == answer_greedily(openvino_genai, needle_f32_dir)


def test_a_chat_is_the_same_and_is_streamed(needle_f32_dir: Path) -> None:
    ours, streamed = chat(ov_kvcrush, needle_f32_dir, [TEXT, "And now?"])
    assert ours == chat(openvino_genai, needle_f32_dir, [TEXT, "And now?"])[0]
    assert streamed == "".join(ours)


@pytest.mark.parametrize("genai", MODULES)
def test_a_sampled_answer_is_read_by_another_thread(genai: Any, needle_int8_dir: Path) -> None:
    answer, read = sample_from_a_thread(genai, needle_int8_dir)
    assert read == answer


@pytest.mark.parametrize("genai", MODULES)
def test_a_benchmark_gets_true_figures(genai: Any, needle_int8_dir: Path) -> None:
    told = measure(genai, needle_int8_dir, 3)
    assert told["input"] == 3 * told["prompt"]
    assert told["generated"] == 15
    assert told["batches"] == 15
    assert told["calls"] == 3
    assert told["gaps"] == 12
    assert told["inferences"] == 15
    assert all(value > 0 for value in told.values()), told
    assert told["inference"] < told["generate"]
    assert told["ttft"] < told["generate"]
    assert told["tokenization"] + told["detokenization"] < told["generate"]
    assert told["sampling"] < told["tpot"]
    assert told["throughput"] == pytest.approx(1e3 / told["tpot"], rel=0.01)


def draft(genai: Any, folder: Path) -> None:
    genai.LLMPipeline(folder, "CPU", draft_model=genai.draft_model(folder, "CPU"))


def adapt(genai: Any, folder: Path) -> None:
    genai.LLMPipeline(folder, "CPU").generate(TEXT, max_new_tokens=2, adapters="lora.safetensors")


def search_beams(genai: Any, folder: Path) -> None:
    config = genai.GenerationConfig()
    config.max_new_tokens = 4
    config.num_beam_groups = 3
    config.num_beams = 15
    config.diversity_penalty = 1
    config.num_return_sequences = config.num_beams
    genai.LLMPipeline(folder, "CPU").generate([TEXT], config)


def decrypt(genai: Any, folder: Path) -> None:
    text = (folder / "openvino_model.xml").read_text()
    genai.LLMPipeline(text, ov.Tensor([0]), genai.Tokenizer(folder), "CPU")


@pytest.mark.parametrize(
    ("program", "feature"),
    [
        (draft, "speculative decoding is not served"),
        (adapt, "does not serve LoRA adapters"),
        (search_beams, "does not serve .*beam search"),
        (decrypt, "text and weights is not served, encrypted ones included"),
    ],
)
def test_what_is_not_served_says_so(program: Any, feature: str, needle_int8_dir: Path) -> None:
    with pytest.raises(UnsupportedError, match=feature):
        program(ov_kvcrush, needle_int8_dir)


def structure(genai: Any, folder: Path) -> str:
    config = genai.GenerationConfig()
    config.max_new_tokens = 20
    config.structured_output_config = genai.StructuredOutputConfig(regex="(red|green)[.]")
    return str(genai.LLMPipeline(folder, "CPU").generate("Which colour?", config))


def test_an_answer_of_a_given_form_has_it(needle_int8_dir: Path) -> None:
    assert structure(ov_kvcrush, needle_int8_dir) in ("red.", "green.")
    assert structure(openvino_genai, needle_int8_dir) in ("red.", "green.")


OURS = {"DecodedResults", "EncodedResults", "LLMPipeline", "PerfMetrics", "RawPerfMetrics"}


def test_every_name_is_there_and_openvino_genais_own_where_it_is_not_ours() -> None:
    shared = [name for name in ov_kvcrush.__all__ if hasattr(openvino_genai, name)]
    assert {"GenerationConfig", "ChatHistory", "SchedulerConfig", *OURS} <= {*shared}
    for name in {*shared} - OURS - {"draft_model"}:
        assert getattr(ov_kvcrush, name) is getattr(openvino_genai, name)
    for name in ov_kvcrush.__all__:
        assert getattr(ov_kvcrush, name) is not None


def test_perf_metrics_have_every_getter_and_every_field() -> None:
    def public(kind: Any) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(openvino_genai.PerfMetrics) <= public(ov_kvcrush.PerfMetrics())
    assert public(openvino_genai.RawPerfMetrics) == public(ov_kvcrush.RawPerfMetrics())


def test_another_pipeline_is_said_to_be_elsewhere() -> None:
    module: ModuleType = ov_kvcrush
    with pytest.raises(AttributeError, match="other pipelines are in openvino_genai"):
        _ = module.VLMPipeline
    with pytest.raises(AttributeError, match=r"has no attribute 'Nothing'$"):
        _ = module.Nothing
