"""``crush``: a document read once, crushed, and asked about from its file."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.cli import run
from ov_kvcrush.cli.options.cache import spell_cache_options
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
from tests.support.commands import fails
from tests.support.paths import ROOT
from tests.support.pipelines import engine_in
from tests.support.terminal import CTRL_C, Terminal
from tests.support.texts import rooms

TEXT = rooms(60)
BUDGET = ["--max-cache-size", "160"]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "rooms.txt"
    path.write_text(f"{TEXT}\n")
    return path


def test_a_document_is_crushed_once_and_asked_about(
    needle_int8_dir: Path, document: Path, tmp_path: Path
) -> None:
    file = tmp_path / "rooms.safetensors"
    command = [sys.executable, "-m", "ov_kvcrush"]
    made = subprocess.run(
        [*command, "crush", str(needle_int8_dir), str(document), "-o", str(file), *BUDGET],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert made.stderr.splitlines() == [
        f"[1/2] Read and crush {document}",
        f"[2/2] Write {file}",
    ]
    assert re.search(r"160 of them kept, \d+ evicted\n", made.stdout)
    following = made.stdout.splitlines()[-1].removeprefix("Next: ov-kvcrush ").split()
    assert following[-2:] == BUDGET
    before = file.read_bytes()
    asked = subprocess.run(
        [*command, *following, "--prompt", "Which is room 7?", "--max-new-tokens", "5"],
        cwd=ROOT, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert asked.stdout.strip()
    assert "holds a document of" in asked.stderr
    assert f"The chat is not saved to {file}" in asked.stderr
    reused = re.search(r"(\d+) in \((\d+) reused\)", asked.stderr)
    assert reused is not None
    assert int(reused[1]) - int(reused[2]) < 20
    assert file.read_bytes() == before


def test_progress_is_shown_and_ctrl_c_leaves_nothing(needle_int8_dir: Path, tmp_path: Path) -> None:
    document, file = tmp_path / "long.txt", tmp_path / "long.safetensors"
    document.write_text(rooms(550))
    arguments = [str(needle_int8_dir), str(document), "-o", str(file), "--max-cache-size", "512"]
    with Terminal("crush", *arguments) as terminal:
        terminal.read_until("Read and crush .* +━+[╸╺]")
        terminal.type(CTRL_C)
        terminal.read_until(f"interrupted: nothing was written to {file}\n")
        assert terminal.wait() == 130
    assert os.listdir(tmp_path) == ["long.txt"]


def test_the_summary_as_json(
    shared: LLMPipeline,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "rooms.safetensors"
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
    arguments = ["crush", str(tmp_path), "-", "-o", str(file), "--system", "Be brief."]
    assert run([*arguments, *BUDGET, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["num_kept"] == 96  # the shared model's
    assert figures["num_tokens"] > 500
    assert figures["file_bytes"] == file.stat().st_size
    assert figures["kv_bytes"] < figures["kv_bytes_full"]
    assert figures["seconds"] > 0
    prefix = shared.load_session(file)
    assert prefix.system_message == "Be brief."  # type: ignore[union-attr]
    prefix.close()
    engine_in(shared).check_integrity()


def test_a_document_is_read_twice(needle_int8_dir: Path, document: Path, tmp_path: Path) -> None:
    file = tmp_path / "rooms.safetensors"
    command = [sys.executable, "-m", "ov_kvcrush"]
    arguments = [str(needle_int8_dir), str(document), "-o", str(file), *BUDGET, "--thorough"]
    made = subprocess.run(
        [*command, "crush", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"[1/2] Read twice and crush {document}" in made.stderr.splitlines()
    assert re.search(r"Document +[\d,]+ tokens, read twice in ", made.stdout)
    assert re.search(r"160 of them kept, \d+ evicted\n", made.stdout)
    following = made.stdout.splitlines()[-1].removeprefix("Next: ov-kvcrush ").split()
    asked = subprocess.run(
        [*command, *following, "--prompt", "Which is room 7?", "--max-new-tokens", "5"],
        cwd=ROOT, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert asked.stdout.strip()


def test_a_thorough_summary_as_json(
    shared: LLMPipeline, document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rooms.safetensors"
    arguments = ["crush", str(tmp_path), str(document), "-o", str(file), *BUDGET]
    kept = []
    for thorough in (False, True):
        assert run([*arguments, "--json", *["--thorough"] * thorough]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert figures["thorough"] is thorough
        prefix = shared.load_session(file)
        assert isinstance(prefix, CachedPrefix)
        assert prefix.thorough is thorough
        assert prefix.session.sequence is not None
        kept.append([layer.positions.tolist() for layer in prefix.session.sequence.layers])
        prefix.close()
    assert kept[0] != kept[1]


def test_reading_twice_needs_a_budget(
    document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["crush", "no-model", str(document), "-o", str(tmp_path / "a.safetensors")]
    assert "nothing says how far" in fails(capsys, *arguments, "--thorough")


def test_only_a_document_is_replaced_unasked(
    shared: LLMPipeline, document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rooms.safetensors"
    arguments = ["crush", str(tmp_path), str(document), "-o", str(file), *BUDGET]
    file.write_text("weights, say")
    assert "is not a crushed document, but a file of another kind" in fails(capsys, *arguments)
    assert file.read_text() == "weights, say"
    assert run([*arguments, "--overwrite"]) == 0
    assert run(arguments) == 0
    file.unlink()
    assert run(["chat", "model", "--session", str(file), "--prompt", "Hello"]) == 0
    capsys.readouterr()
    assert "is not a crushed document, but a chat" in fails(capsys, *arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "UTF-8")],
)
def test_a_document_that_is_not_text_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    document, file = tmp_path / "text.txt", tmp_path / "text.safetensors"
    if content is not None:
        document.write_bytes(content)
    assert message in fails(capsys, "crush", "no-model", str(document), "-o", str(file), *BUDGET)
    assert not file.exists()


def test_a_document_longer_than_the_context_is_refused(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shared: LLMPipeline
) -> None:
    document, file = tmp_path / "text.txt", tmp_path / "text.safetensors"
    document.write_text("Room 7 is blue. " * 20_000)
    arguments = [str(needle_int8_dir), str(document), "-o", str(file), *BUDGET]
    assert run(["crush", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(
        r"^error: the prompt has .* within the 8,192 that the model was made", err, re.M
    )
    assert "--context-length" in err
    assert not file.exists()


def test_without_a_budget_there_is_nothing_to_crush(
    document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "rooms.safetensors")
    assert "how far to crush" in fails(capsys, "crush", "no-model", str(document), "-o", file)


def test_what_is_asked_next_has_the_same_cache_flags() -> None:
    config = KVCacheConfig(
        max_cache_size=160,
        layer_budgets=(1, 2.5),
        key_cache_precision="u8",
        prefix_caching=False,
        seed=3,
    )
    assert spell_cache_options(config) == [
        "--max-cache-size", "160", "--layer-budgets", "1,2.5", "--selection-seed", "3",
        "--key-cache-precision", "u8", "--no-prefix-caching",
    ]  # fmt: skip
