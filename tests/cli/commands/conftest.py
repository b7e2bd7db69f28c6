"""Commands run in this process: nothing piped in, one model for a whole file; a model to export."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.cli import run


@pytest.fixture(scope="module")
def pipeline(needle_int8_dir: Path) -> LLMPipeline:
    config = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24, pool_size=4096)
    return LLMPipeline(needle_int8_dir, kv_cache_config=config)


@pytest.fixture
def no_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is piped in."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


@pytest.fixture
def shared(pipeline: LLMPipeline, monkeypatch: pytest.MonkeyPatch, no_stdin: None) -> LLMPipeline:
    """One model for every command line of a test; nothing is piped in."""
    monkeypatch.setattr("ov_kvcrush.cli.commands.chat.load_pipeline", lambda *_: pipeline)
    monkeypatch.setattr("ov_kvcrush.cli.commands.crush.load_pipeline", lambda *_: pipeline)
    return pipeline


@pytest.fixture
def model(tmp_path: Path, tiny_source_dir: Path) -> Path:
    """A Hugging Face model that a test may change."""
    return shutil.copytree(tiny_source_dir, tmp_path / "model")


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[str, str]]:
    """Runs the command in this process; returns the error and the hint it must end with."""
    here = lambda make, options, progress, verbose: make(options, progress)  # noqa: E731
    monkeypatch.setattr("ov_kvcrush.export.child_process.run_in_child", here)

    def refuse(model: Path | str, *flags: str, output: Path | None = None) -> tuple[str, str]:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert run(["export", "-m", str(model), str(output or tmp_path / "output"), *flags]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        shown = capsys.readouterr()
        assert shown.out == ""
        message, hint = shown.err.splitlines()
        return message.removeprefix("error: "), hint

    return refuse
