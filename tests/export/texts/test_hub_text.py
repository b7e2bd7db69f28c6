"""Data sets by name: the real ``datasets`` package on a hub on this machine, and without one."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export.texts.hub_text import CHARACTERS, HUB_TEXTS
from ov_kvcrush.export.texts.texts import find_text
from ov_kvcrush.plan import KVPlan
from tests.support.hub_server import serve
from tests.support.model_factory import make_model
from tests.support.paths import ROOT

LINE = "The quick brown fox number {} jumps over the lazy dog, and nobody asked why."
NUM_LINES = 6000  # more than is read

# Where the hub is, is read from the environment when its client is imported: hence a process each.
_READ = """
import dataclasses, json, sys
from ov_kvcrush.errors import OVKVCrushError
from ov_kvcrush.export.texts.texts import find_text

try:
    print(json.dumps(dataclasses.asdict(find_text(sys.argv[1]))))
except OVKVCrushError as error:
    print(json.dumps({"message": error.message, "hint": error.hint}))
"""


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub with data sets that are laid out as the real ones, with other text in them."""
    folder = tmp_path_factory.mktemp("hub")
    lines = [LINE.format(number) for number in range(NUM_LINES)]
    wikitext = folder / "datasets" / HUB_TEXTS["wikitext2"]["path"]
    config = HUB_TEXTS["wikitext2"]["name"]
    (wikitext / config).mkdir(parents=True)
    files = [{"split": "train", "path": f"{config}/train-*"}]
    configs = json.dumps({"configs": [{"config_name": config, "data_files": files}]})
    (wikitext / "README.md").write_text(f"---\n{configs}\n---\n")
    rows = pyarrow.table({"text": [row for line in lines for row in ("", f" {line} \n")]})
    pyarrow.parquet.write_table(rows, wikitext / config / "train-00000-of-00001.parquet")
    c4 = folder / "datasets" / HUB_TEXTS["c4"]["path"] / HUB_TEXTS["c4"]["data_files"]["train"]
    c4.parent.mkdir(parents=True)
    with gzip.open(c4, "wt") as stream:
        stream.writelines(json.dumps({"text": line, "url": "x"}) + "\n" for line in lines)
    return folder


def hub_environment(endpoint: str, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}


def read(name: str, endpoint: str, home: Path, **environment: str) -> dict[str, Any]:
    process = subprocess.run(
        [sys.executable, "-c", _READ, name],
        cwd=ROOT,
        env={**os.environ, **hub_environment(endpoint, home), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("name", HUB_TEXTS)
def test_data_sets_of_the_hub_are_read_by_name(hub_folder: Path, tmp_path: Path, name: str) -> None:
    with serve(hub_folder) as endpoint:
        text = read(name, endpoint, tmp_path)
    wanted = "\n\n".join(LINE.format(number) for number in range(NUM_LINES))[:CHARACTERS]
    assert text["content"] == wanted
    assert text["origin"] == {
        "source": name,
        "load_dataset": HUB_TEXTS[name],
        "characters": CHARACTERS,
        "sha256": hashlib.sha256(wanted.encode()).hexdigest(),
    }


def test_a_small_data_set_is_in_the_cache_afterwards(hub_folder: Path, tmp_path: Path) -> None:
    with serve(hub_folder) as endpoint:
        first = read("wikitext2", endpoint, tmp_path)
    assert read("wikitext2", endpoint, tmp_path, HF_HUB_OFFLINE="1") == first


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}])
@pytest.mark.parametrize("name", HUB_TEXTS)
def test_a_hub_out_of_reach_is_reported(
    tmp_path: Path, name: str, environment: dict[str, str]
) -> None:
    told = read(name, "http://127.0.0.1:9", tmp_path, **environment)
    path = HUB_TEXTS[name]["path"]
    assert told["message"] == (
        f"the data set {name} ({path}) cannot be fetched: the hub cannot be reached"
    )
    assert "text file" in told["hint"]


def test_a_data_set_the_hub_does_not_have_is_reported(tmp_path: Path) -> None:
    with serve(tmp_path) as endpoint:
        told = read("c4", endpoint, tmp_path / "home")
    assert told["message"].startswith("the data set c4 (allenai/c4) cannot be fetched: ")
    assert len(told["message"].splitlines()) == 1


@pytest.mark.parametrize("name", ["wikitext", "c4-new", "auto"])
def test_other_names_are_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match="neither a file nor a data set") as caught:
        find_text(name)
    assert caught.value.hint.endswith("or wikitext2, c4.")


def test_a_file_is_told_by_its_name_and_its_content(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("my notes")
    text = find_text(str(tmp_path / "notes.txt"))
    assert text.content == "my notes"
    digest = hashlib.sha256(b"my notes").hexdigest()
    assert text.origin == {"source": str(tmp_path / "notes.txt"), "sha256": digest}
    with pytest.raises(ConfigError, match=r"no.txt: No such file") as caught:
        find_text("no.txt")
    assert caught.value.hint.startswith("--kv-dataset takes")


def test_an_export_calibrates_on_a_data_set(hub_folder: Path, tmp_path: Path) -> None:
    source = make_model(tmp_path / "source", head_dim=32)
    flags = ["--kv-plan", "auto", "--kv-dataset", "c4", str(tmp_path / "model")]
    with serve(hub_folder) as endpoint:
        subprocess.run(
            [sys.executable, "-m", "ov_kvcrush", "export", "-m", str(source), *flags],
            cwd=ROOT,
            env={**os.environ, **hub_environment(endpoint, tmp_path / "home")},
            check=True,
        )
    plan = KVPlan.load(tmp_path / "model")
    assert plan is not None
    assert plan.calibration is not None
    assert isinstance(plan.calibration.text, dict)
    assert plan.calibration.text["load_dataset"] == HUB_TEXTS["c4"]
    assert plan.calibration.text["characters"] == CHARACTERS


@pytest.mark.parametrize(
    "flags",
    [
        ["--kv-plan", "auto", "--kv-dataset", "wikitext2"],
        ["--weight-format", "int4", "--awq", "--dataset", "c4-new"],
    ],
)
def test_an_export_stops_at_once_where_the_hub_is_out_of_reach(
    tiny_source_dir: Path, tmp_path: Path, flags: list[str]
) -> None:
    arguments = ["-m", str(tiny_source_dir), *flags, str(tmp_path / "model")]
    process = subprocess.run(
        [sys.executable, "-m", "ov_kvcrush", "export", *arguments],
        cwd=ROOT,
        env={**os.environ, **hub_environment("http://127.0.0.1:9", tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    message, _ = process.stderr.splitlines()
    assert message.endswith("cannot be fetched: the hub cannot be reached")
    assert not (tmp_path / "model").exists()
