"""What cannot be served by replicas is told in a line, and nothing of Ray is left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.server_process import server_process

pytest.importorskip("ray")
pytestmark = pytest.mark.ray


def test_a_model_that_cannot_be_loaded_is_told_as_without_ray(
    needle_int8_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    damaged = shutil.copytree(needle_int8_dir, tmp_path / "damaged")
    (damaged / "openvino_model.bin").write_bytes(b"")
    with server_process(damaged) as server:
        assert server.end() == 2
    alone = server.said[-2:]
    with server_process(damaged, "--ray", "--threads", "1", "--port", "8799") as server:
        assert server.end() == 2
    # Ray says more, before it and after it, where it has had time to.
    at = server.said.index(alone[0])
    assert server.said[at : at + 2] == alone
