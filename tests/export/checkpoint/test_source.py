from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export import ExportOptions
from ov_kvcrush.export.checkpoint.source import find_source
from tests.support.hub_server import GATED, serve
from tests.support.model_factory import make_model
from tests.support.paths import NEEDLE, ROOT

# Where the hub is, is read from the environment when its client is imported: hence a process each.
_ON_THE_HUB = """
import json, sys
from pathlib import Path
from ov_kvcrush.errors import ExportError
from ov_kvcrush.export import ExportOptions
from ov_kvcrush.export.checkpoint.source import download, find_source

class Recorder:
    shares = []
    def advance(self, share):
        self.shares.append(share)

options = ExportOptions(model=sys.argv[1], output=Path("output"))
try:
    source = find_source(options)
    told = {"downloads": source.downloads, "bytes": source.download_bytes}
    if source.downloads:
        download(options, source, Recorder())
        again = find_source(options)
        told |= {"left": again.downloads, "num_parameters": again.checkpoint.num_parameters}
    told |= {"files": sorted(path.name for path in source.folder.iterdir())}
    print(json.dumps(told | {"shares": Recorder.shares}))
except ExportError as error:
    print(json.dumps({"message": error.message, "hint": error.hint}))
"""


def source_of(model: Path, **settings: Any) -> Any:
    return find_source(ExportOptions(model=str(model), output=Path("output"), **settings))


def on_the_hub(model: str, endpoint: str, home: Path, **environment: str) -> dict[str, Any]:
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    process = subprocess.run(
        [sys.executable, "-c", _ON_THE_HUB, model],
        cwd=ROOT,
        env={**os.environ, **variables, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(process.stdout)
    return told


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    make_model(folder / "org" / "tiny")
    return folder


def test_sizes_come_from_the_headers_of_the_weights() -> None:
    checkpoint = source_of(NEEDLE).checkpoint
    assert checkpoint.num_parameters == 15_341_952
    assert checkpoint.num_bytes == 2 * 15_341_952
    assert checkpoint.num_embedding_parameters == 5120 * 384


def test_only_the_chosen_variant_counts(tmp_path: Path) -> None:
    make_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.fp16.safetensors")
    assert source_of(tmp_path, variant="fp16").checkpoint.num_parameters > 0
    with pytest.raises(ExportError, match="holds no weights"):
        source_of(tmp_path)
    with pytest.raises(ExportError, match="of the variant 'bf16'"):
        source_of(tmp_path, variant="bf16")


def test_a_model_on_the_hub_is_found_and_downloaded(hub_folder: Path, tmp_path: Path) -> None:
    weights = (hub_folder / "org" / "tiny" / "model.safetensors").stat().st_size
    with serve(hub_folder) as endpoint:
        told = on_the_hub("org/tiny", endpoint, tmp_path)
        assert told["downloads"] == ["model.safetensors"]
        assert told["bytes"] == weights
        assert told["left"] == []
        assert told["num_parameters"] > 0
        assert "config.json" in told["files"]
        assert told["shares"][-1] == 1.0
        assert on_the_hub("org/tiny", endpoint, tmp_path)["downloads"] == []
    offline = on_the_hub("org/tiny", endpoint, tmp_path, HF_HUB_OFFLINE="1")
    assert offline["downloads"] == []


def test_what_the_hub_refuses_is_told_apart(hub_folder: Path, tmp_path: Path) -> None:
    with serve(hub_folder) as endpoint:
        missing = on_the_hub("org/missing", endpoint, tmp_path)
        gated = on_the_hub(GATED, endpoint, tmp_path)
    assert missing["message"] == "no such folder, and no such model on the hub: org/missing"
    assert "spelling" in missing["hint"]
    assert gated["message"] == f"{GATED} is gated on the hub"
    assert "hf auth login" in gated["hint"]


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_out_of_reach_is_reported(tmp_path: Path, environment: dict[str, str]) -> None:
    told = on_the_hub("org/tiny", "http://127.0.0.1:9", tmp_path, **environment)
    assert told["message"] == "no such folder, and the hub cannot be reached: org/tiny"
    assert "connection" in told["hint"]
