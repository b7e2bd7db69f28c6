"""A model compiled ahead of its engine is the one the engine gets, if it is what it asks for."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from pathlib import Path

import pytest

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ModelError
from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline
from ov_kvcrush.runtime.paged import model_ahead
from ov_kvcrush.runtime.paged.model_ahead import begin_compiling, compiled_model
from ov_kvcrush.runtime.paged.model_choice import ModelChoice, ModelRequest


def request_for(folder: Path, **changes: object) -> ModelRequest:
    request = ModelRequest(folder, "CPU", KVCacheConfig(max_cache_size=256), {}, "same")
    return dataclasses.replace(request, **changes)  # type: ignore[arg-type]


def test_what_was_compiled_ahead_is_given_once(
    needle_int8_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_by = list[str]()
    compile_it = ModelChoice.compile

    def noting(choice: ModelChoice, *arguments: object) -> object:
        compiled_by.append(threading.current_thread().name)
        return compile_it(choice, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelChoice, "compile", noting)
    begin_compiling(request_for(needle_int8_dir))
    begun = list[bool]()
    _, first = compiled_model(request_for(needle_int8_dir), lambda: begun.append(True))
    assert compiled_by == ["ov-kvcrush-compiling"]
    assert begun == [True]
    # A model is written to by whoever has it: the next one gets another.
    _, second = compiled_model(request_for(needle_int8_dir))
    assert first is not second
    assert compiled_by[1:] == [threading.current_thread().name]


def test_what_nobody_asked_for_is_not_given(needle_int8_dir: Path) -> None:
    begin_compiling(request_for(needle_int8_dir))
    exact = request_for(needle_int8_dir, properties={"KV_CACHE_PRECISION": "f32"})
    choice, model = compiled_model(exact)
    assert choice.request == exact
    assert {layer.key for layer in model.precisions} == {"f32"}
    assert model_ahead._ahead == []


def test_a_mistake_is_said_by_whoever_needs_the_model(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    begin_compiling(request_for(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="no such model folder"):
        compiled_model(request_for(tmp_path / "nowhere"))
    folder = tmp_path / "model"
    shutil.copytree(needle_int8_dir, folder)
    (folder / "ov_kvcrush.json").unlink()
    text = (folder / "openvino_model.xml").read_bytes()
    (folder / "openvino_model.xml").write_bytes(text[: len(text) // 2])
    begin_compiling(request_for(folder, config=KVCacheConfig()))
    with pytest.raises(ModelError, match="cannot be read"):
        compiled_model(request_for(folder, config=KVCacheConfig()))


def test_answers_are_those_of_a_model_compiled_when_it_was_needed(needle_int8_dir: Path) -> None:
    config, prompt = KVCacheConfig(max_cache_size=256), "The code of the red door is 4071. " * 40

    def answer() -> object:
        pipe = LLMPipeline(needle_int8_dir, kv_cache_config=config, decode_precision="same")
        return pipe.generate(prompt, max_new_tokens=12)

    begin_compiling(request_for(needle_int8_dir, config=config))
    ahead = answer()
    assert model_ahead._ahead == []
    assert ahead == answer()
