"""``ov-kvcrush serve`` as it is used: started, asked, ended; what it refuses before it loads."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import httpx2
import pytest

from ov_kvcrush.cli import run
from tests.support.commands import fails
from tests.support.server_process import server_process


def test_it_serves_with_its_flags_until_it_is_told_to_end(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("alice:secret-1\n")
    flags = ["--max-cache-size", "256", "--threads", "1", "--chunk", "256"]
    flags += ["--model-name", "small", "--model-name", "needle", "--api-key-file", str(keys)]
    flags += ["--max-answer-tokens", "3", "--property", "INFERENCE_PRECISION_HINT=f32"]
    environment = {"OV_KVCRUSH_API_KEY": "secret-2"}
    with server_process(needle_int8_dir, *flags, environment=environment) as server:
        assert server.model == "small"
        server.wait_until_ready()
        with httpx2.Client(base_url=server.url, timeout=60) as client:
            assert client.get("/v1/models").status_code == 401
            for key in ("secret-1", "secret-2"):
                client.headers["Authorization"] = f"Bearer {key}"
                names = [model["id"] for model in client.get("/v1/models").json()["data"]]
                assert names == ["small", "needle"]
            body = {
                "model": "needle",
                "messages": [{"role": "user", "content": "Hello"}],
                "ignore_eos": True,
            }
            reply = client.post("/v3/chat/completions", json=body).json()
        assert reply["model"] == "small"
        assert reply["usage"]["completion_tokens"] == 3
        server.tell(signal.SIGTERM)
        assert server.end() == 0
    lines = [line for line in server.said if "/chat/completions" in line]
    assert len(lines) == 1
    assert " POST /v3/chat/completions 200 id=" in lines[0]
    assert " key=default in=" in lines[0]
    assert lines[0].endswith(" end=length\n")


def test_it_may_keep_quiet(needle_int8_dir: Path) -> None:
    with server_process(needle_int8_dir, "--max-cache-size", "256", "--no-access-log") as server:
        server.wait_until_ready()
        assert server.model == needle_int8_dir.name
        assert httpx2.get(f"{server.url}/v1/models").status_code == 200
        server.tell(signal.SIGINT)
        assert server.end() == 0
    assert not any("/models" in line for line in server.said)


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 is reached from other machines", "--api-key-file"),
        (["--port", "70000"], "--port 70000 is not a port", "0 to 65535"),
        (["--max-running", "0"], "--max-running is 0", "1 or more"),
        (["--queue-timeout", "-1"], "--queue-timeout is -1", "0 or more"),
        (["--api-key-file", "no-such-file"], "cannot read no-such-file", ""),
        (["--model-name", ""], "the name of its model", "--model-name"),
        (["--threads", "1", "--property", "INFERENCE_NUM_THREADS=1"], "twice", "one of them"),
        (["--property", "x"], "is not KEY=VALUE", "--property"),
        (["--no-such-flag"], "No such option", "--help"),
        (["--replicas", "2"], "--replicas does nothing without --ray", "both"),
        (["--max-replicas", "2"], "--max-replicas does nothing without --ray", "both"),
        (["--ray", "--min-replicas", "1"], "--min-replicas does nothing", "both"),
        (["--ray", "--replicas", "1", "--max-replicas", "2"], "--replicas is a fixed", "other two"),
        (["--ray", "--min-replicas", "3", "--max-replicas", "2"], "--max-replicas is 2", "least"),
        (["--ray", "--replicas", "0"], "--replicas", ""),
        (["--ray", "--port", "0"], "--port 0 cannot find a free one", "number of a port"),
        (["--ray", "--replicas", "5000"], "5000 replicas of 1 threads need 5000", "RAY_ADDRESS"),
        (["--ray", "--property", "INFERENCE_NUM_THREADS=1"], "says nothing to Ray", "--threads"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_loaded(
    needle_int8_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    message: str,
    hint: str,
) -> None:
    monkeypatch.delenv("OV_KVCRUSH_API_KEY", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said = fails(capsys, "serve", str(needle_int8_dir), *flags)
    assert message in said
    assert hint in said


def test_a_folder_without_a_model_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such model folder" in fails(capsys, "serve", str(tmp_path / "nowhere"))
    assert "holds no OpenVINO model" in fails(capsys, "serve", str(tmp_path))


def test_a_library_that_is_missing_is_told(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("ov_kvcrush.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    said = fails(capsys, "serve", str(needle_int8_dir))
    assert "a server needs uvicorn" in said
    assert "pip install 'ov-kvcrush[serve]'" in said


def test_ray_that_is_missing_is_told(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("ov_kvcrush.serve.replicas.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    said = fails(capsys, "serve", str(needle_int8_dir), "--ray")
    assert "--ray needs ray, which is not installed" in said
    assert "pip install 'ov-kvcrush[ray]'" in said


def test_in_a_cluster_threads_are_not_guessed(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:6379")
    said = fails(capsys, "serve", str(needle_int8_dir), "--ray")
    assert "how many processors the cluster's nodes have" in said
    assert "--threads" in said


def test_its_help_names_all_flags_and_imports_no_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    for flag in ("--session-dir", "--api-key-file", "--max-cache-size", "--no-access-log"):
        assert flag in shown


def test_a_model_that_cannot_be_loaded_ends_the_server(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(needle_int8_dir, tmp_path / "damaged")
    (damaged / "openvino_model.bin").write_bytes(b"")
    with server_process(damaged) as server:
        assert server.end() == 2
    assert server.said[-2].startswith("error: ")
    assert "Traceback" not in "".join(server.said)


def test_openvino_genais_engine_serves_too(needle_int8_dir: Path) -> None:
    flags = ["--engine", "genai", "--max-cache-size", "256", "--granularity", "page"]
    with server_process(needle_int8_dir, *flags, "--model-name", "needle") as server:
        server.wait_until_ready()
        body = {"model": "needle", "messages": [{"role": "user", "content": "Hello"}]}
        url = f"{server.url}/v1/chat/completions"
        assert httpx2.post(url, json=body, timeout=60).json()["choices"][0]["message"]["content"]
        with httpx2.stream("POST", url, json={**body, "stream": True}, timeout=60) as got:
            assert list(got.iter_lines())[-2] == "data: [DONE]"
        server.tell(signal.SIGTERM)
        assert server.end() == 0


def test_a_folder_for_chats_is_refused_before_a_model_is_loaded(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = shutil.copytree(needle_int8_dir, tmp_path / "damaged")
    (damaged / "openvino_model.bin").write_bytes(b"")
    a_file = tmp_path / "notes.txt"
    a_file.write_text("not a folder")
    said = fails(capsys, "serve", str(damaged), "--session-dir", str(a_file))
    assert "notes.txt cannot be a folder for chats" in said
    chats = str(tmp_path / "chats")
    said = fails(capsys, "serve", str(damaged), "--engine", "genai", "--session-dir", chats)
    assert "the genai engine keeps no cache that could be saved" in said
