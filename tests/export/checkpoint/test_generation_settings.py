from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.checkpoint.generation_settings import (
    check_generation_settings,
    keep_generation_settings,
)
from tests.support.model_factory import make_model

# As Llama 2 was published: a temperature, but no do_sample.
LLAMA_2 = {
    "bos_token_id": 1,
    "eos_token_id": [2, 7],
    "max_length": 4096,
    "temperature": 0.6,
    "top_p": 0.9,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "exported").mkdir()
    return tmp_path / "exported"


def kept(model: Path, target: Path) -> dict[str, Any]:
    keep_generation_settings(model, AutoConfig.from_pretrained(model), target)
    settings: dict[str, Any] = json.loads((target / "generation_config.json").read_text())
    return settings


def test_settings_that_transformers_would_not_save_are_kept(model: Path, target: Path) -> None:
    (model / "generation_config.json").write_text(json.dumps(LLAMA_2))
    check_generation_settings(model)
    assert kept(model, target) == LLAMA_2


def test_without_a_file_of_their_own_they_are_in_the_configuration(
    model: Path, target: Path
) -> None:
    (model / "generation_config.json").unlink()
    check_generation_settings(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | LLAMA_2))
    assert kept(model, target).items() >= LLAMA_2.items()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[2]", "it is not a JSON object"),
        ('{"eos_token_id": "2"}', "eos_token_id is '2', not a token id"),
        ('{"eos_token_id": [2, true]}', "not a token id or a list of them"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(model: Path, content: str, reason: str) -> None:
    (model / "generation_config.json").write_text(content)
    with pytest.raises(ExportError, match=r"generation_config\.json cannot be read") as caught:
        check_generation_settings(model)
    assert reason in caught.value.message
    assert "delete it" in caught.value.hint
    (model / "generation_config.json").unlink()  # as the hint says
    check_generation_settings(model)
