"""What a YAML file's args may say of the application; without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.errors import ConfigError, ModelError

pytest.importorskip("ray")
pytestmark = pytest.mark.ray


def build(model: Path, **args: Any) -> Any:
    from ov_kvcrush.serve.replicas.builder import build

    return build({"model_dir": str(model), "server": {"no_key": True}, **args})


def test_it_knows_all_that_the_command_line_knows(needle_int8_dir: Path, tmp_path: Path) -> None:
    keys, chats = tmp_path / "keys.txt", tmp_path / "chats"
    keys.write_text("alice:secret\n")
    built = build(
        needle_int8_dir,
        replicas={"min_replicas": 1, "max_replicas": 3, "threads": 2},
        kv_cache={"max_cache_size": 256},
        server={"api_key_file": str(keys), "session_dir": str(chats), "max_running": 4},
        pipeline={"max_num_batched_tokens": 128},
        properties={"INFERENCE_PRECISION_HINT": "f32"},
    )
    assert built is not None
    assert chats.is_dir()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"replica": {}}, "'replica' is not one of args"),
        ({"server": {}}, "no API key is set"),
        ({"replicas": {"threads": 0}}, "threads is 0"),
        ({"server": {"no_key": True, "max_runing": 4}}, "max_runing"),
        ({"kv_cache": {"max_cache": 4}}, "max_cache"),
        ({"replicas": {"min": 1}}, "'min' is not one of replicas"),
    ],
)
def test_what_is_not_known_is_refused_where_it_is_built(
    needle_int8_dir: Path, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(needle_int8_dir, **args)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        build(tmp_path)
