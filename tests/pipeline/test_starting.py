"""What a start does not wait for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.errors import ModelError
from tests.support.paths import ROOT

SHORT_THEN_LONG = """
import sys
from ov_kvcrush import KVCacheConfig, LLMPipeline

pipe = LLMPipeline(sys.argv[1], kv_cache_config=KVCacheConfig(max_cache_size=256))
for text in ("Hello", "Hello " * 600):
    pipe.generate(text, max_new_tokens=2)
    print("numba" in sys.modules)
"""


def test_loops_are_loaded_when_a_cut_is_in_sight(needle_int8_dir: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", SHORT_THEN_LONG, str(needle_int8_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.split() == ["False", "True"]


def test_a_tokenizer_that_is_missing_is_said_before_anything_is_compiled(
    needle_int8_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in needle_int8_dir.iterdir():
        if file.name != "openvino_tokenizer.xml":
            (tmp_path / file.name).symlink_to(file)
    monkeypatch.setattr("ov_kvcrush.pipeline.loaded_model.make_engine", None)
    with pytest.raises(ModelError, match=r"holds no openvino_tokenizer\.xml"):
        LLMPipeline(tmp_path)


def test_a_damaged_tokenizer_is_said_though_it_loads_beside_the_model(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    for file in needle_int8_dir.iterdir():
        if file.name != "openvino_tokenizer.xml":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "openvino_tokenizer.xml").write_text("<net></net>")
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be loaded"):
        LLMPipeline(tmp_path)
