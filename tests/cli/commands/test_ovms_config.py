"""``ov-kvcrush ovms-config``: what is written, and what is said of it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from ov_kvcrush.cli import run
from tests.support.commands import fails
from tests.support.model_factory import retemplated
from tests.support.ovms_proto import parse_graph

BUDGET = ("--max-cache-size", "1024")


def test_it_says_what_is_kept_and_that_every_turn_is_read_again(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "my ovms"
    command = ["ovms-config", str(needle_int8_dir), *BUDGET, "--cache-size", "2"]
    assert run([*command, "--name", "needle", "-o", str(output)]) == 0
    out, err = capsys.readouterr()
    assert "32 first, 480 important, 448 representatives, 64 last" in out
    assert "every turn reads the whole chat again" in out
    assert "http://localhost:8000/v3" in out
    following = shlex.split(out.splitlines()[-1].removeprefix("Next: "))
    config = json.loads(Path(following[-1]).read_text())
    assert config["model_config_list"][0]["config"]["name"] == "needle"
    options = parse_graph((output / "graph" / "graph.pbtxt").read_text())[1]
    assert options.cache_size == 2
    assert options.cache_eviction_config.max_cache_size == 576
    assert err.count("\n") == 1
    assert err.startswith("note: ")
    assert "granularity page, representatives rank" in err


def test_its_summary_can_be_read_by_programs(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deploy"
    command = ["ovms-config", str(needle_int8_dir), "-o", str(output), "--json"]
    assert run(command) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["eviction"] is None
    assert figures["prefix_caching"]
    assert figures["pool_tokens"] is None
    assert figures["config_file"] == str(output / "config.json")
    assert "exists" in fails(capsys, *command)
    assert run([*command, "--overwrite", "--cache-size", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["pool_tokens"] > 100_000


def test_errors_name_flags_of_this_command(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ovms-config", str(needle_int8_dir), *BUDGET, "-o", str(tmp_path / "ovms")]
    refused = fails(capsys, *command, "--importance", "h2o", "--layer-budgets", "pyramid")
    assert "Give --importance snapkv, --layer-budgets uniform; or serve it with" in refused
    refused = fails(capsys, *command, "--kv-cache-precision", "u4")
    assert "--cache-size GB" in refused
    assert "2025.3 has no setting" in fails(capsys, *command, "--for-ovms", "2025.3")
    assert not (tmp_path / "ovms").exists()


def test_a_model_without_a_chat_template_is_told(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    retemplated(folder, needle_int8_dir, None)
    assert run(["ovms-config", str(folder), *BUDGET]) == 0
    assert "/v3/completions alone" in capsys.readouterr().out
    assert (tmp_path / "model-ovms" / "config.json").exists()
