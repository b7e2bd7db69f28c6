"""Sessions at the command line: ``crush``, ``chat --session``, ``/save`` and ``/load``."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.cli import run
from ov_kvcrush.cli.chat.conversation import Conversation
from ov_kvcrush.cli.options.cache import spell_cache_options
from ov_kvcrush.errors import SessionError
from ov_kvcrush.pipeline.saving import saved_kind
from tests.cli.chat.test_slash_commands import SETTINGS, FakeScreen
from tests.support.damaged_sessions import DAMAGES
from tests.support.paths import ROOT
from tests.support.terminal import CTRL_C, CTRL_D, Terminal

TEXT = " ".join(f"Room {n} is {7 * n}." for n in range(60))
BUDGET = ["--max-cache-size", "160"]
CONFIG = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24, pool_size=4096)


@pytest.fixture(scope="module")
def pipeline(needle_int8_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_int8_dir, kv_cache_config=CONFIG)


@pytest.fixture
def screen(pipeline: LLMPipeline) -> Iterator[FakeScreen]:
    screen = FakeScreen(Conversation(pipeline, SETTINGS))
    yield screen
    screen.conversation.clear()


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
def document(tmp_path: Path) -> Path:
    path = tmp_path / "rooms.txt"
    path.write_text(f"{TEXT}\n")
    return path


def check(pipeline: LLMPipeline) -> None:
    pipeline.loaded_model.engine.check_integrity()


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What stderr says after a command that ended with 2 and printed nothing else."""
    assert run([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") <= 2
    return err


# ------------------------------------------------------------------ /save and /load


def test_a_saved_session_goes_on_without_reading(
    screen: FakeScreen, pipeline: LLMPipeline, tmp_path: Path
) -> None:
    file = tmp_path / "talk.safetensors"
    screen.ask(TEXT)
    assert re.search(
        rf"Saved 2 messages with the KV cache, \d+ of \d+ tokens, to {file}: [\d.]+ MB",
        screen.do(f"/save {file}"),
    )
    other = FakeScreen(Conversation(pipeline, {"max_new_tokens": 5}))
    other.ask("Something else")
    assert "Loaded 2 messages with the KV cache of" in other.do(f"/load {file}")
    assert other.messages == screen.messages
    assert other.conversation.settings == {"max_new_tokens": 5}
    other.conversation.change_settings(SETTINGS)
    here, there = screen.ask("And room 7?"), other.ask("And room 7?")
    assert here.texts == there.texts
    assert there.metrics[0].num_reused_tokens == here.metrics[0].num_reused_tokens > 0
    other.conversation.clear()
    check(pipeline)


def test_a_session_without_its_cache_says_so(screen: FakeScreen, tmp_path: Path) -> None:
    file = tmp_path / "talk.safetensors"
    screen.ask("Hello")
    screen.conversation.chat.close()
    assert "without a KV cache: it had been given up" in screen.do(f"/save {file}")
    assert "The next turn reads the history anew" in screen.do(f"/load {file}")
    assert screen.ask("Go on").metrics[0].num_reused_tokens == 0


def test_a_file_that_cannot_be_loaded_changes_nothing(screen: FakeScreen, tmp_path: Path) -> None:
    file = tmp_path / "talk.safetensors"
    screen.ask("Hello")
    before = list(screen.messages)
    for content in (None, b"", b"weights"):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SessionError):
            screen.do(f"/load {file}")
    with pytest.raises(SessionError, match="is not a saved session"):
        screen.do(f"/save {file}")
    assert file.read_bytes() == b"weights"
    assert screen.messages == before
    assert screen.ask("Go on").metrics[0].num_reused_tokens > 0


def test_a_conversation_leaves_a_document_behind(
    screen: FakeScreen, pipeline: LLMPipeline, tmp_path: Path
) -> None:
    file, talk = tmp_path / "rooms.safetensors", tmp_path / "talk.json"
    with pipeline.cache_prefix(f"{TEXT}\n\n") as prefix:
        pipeline.save_session(file, prefix)
    screen.ask("Hello")
    screen.do(f"/save {talk}")
    assert "holds a document of" in screen.do(f"/load {file}")
    first = screen.ask("Which is room 7?")
    assert first.metrics[0].num_reused_tokens == len(prefix.token_ids)
    screen.do("/regen")
    assert screen.results[-1].texts == first.texts
    assert screen.messages[0]["content"] == f"{TEXT}\n\nWhich is room 7?"
    screen.do(f"/load {talk}")
    assert screen.ask("Go on").metrics[0].num_reused_tokens == 0


# ------------------------------------------------------------------ chat --session


def test_a_session_is_made_gone_on_from_and_saved_at_the_end(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "talk.safetensors"
    arguments = ["chat", str(needle_int8_dir), "--session", str(file), *BUDGET]
    with Terminal(*arguments) as chat:
        chat.read_until(r"\n> ")
        chat.say(TEXT)
        assert not file.exists()
        chat.type(CTRL_D)
        chat.read_until(f"Saved 2 messages with the KV cache, .* to {file}")
        assert chat.wait() == 0
    with Terminal(*arguments) as chat:
        screen = chat.read_until(r"\n> ")
        assert f"from {file}" in screen
        assert "Loaded 2 messages" in screen
        assert re.search(r"\(9\d\d reused\)|\([5-9]\d\d reused\)", chat.say("And room 5?"))
        chat.type("/exit\n")
        chat.read_until("Saved 4 messages")
        assert chat.wait() == 0
    content = file.read_bytes()
    with Terminal(*arguments) as chat:
        chat.read_until(r"\n> ")
        chat.press_ctrl_c_at_prompt()
        assert chat.wait() == 0
    assert file.read_bytes() == content  # nothing was said
    assert os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize(("number", "is_saved"), [(signal.SIGTERM, True), (signal.SIGKILL, False)])
def test_a_process_that_is_ended_saves_and_one_that_is_killed_leaves_the_old_file(
    needle_int8_dir: Path, tmp_path: Path, no_stdin: None, number: int, is_saved: bool
) -> None:
    file = tmp_path / "talk.safetensors"
    arguments = ["chat", str(needle_int8_dir), "--session", str(file), *BUDGET]
    assert run([*arguments, "--prompt", "Hello", "--max-new-tokens", "2"]) == 0
    before = file.read_bytes()
    with Terminal(*arguments) as chat:
        chat.read_until(r"\n> ")
        chat.say("Go on")
        chat.signal(number)
        assert chat.wait() == (128 + number if is_saved else -number)
    assert (file.read_bytes() != before) == is_saved
    assert saved_kind(file) == "chat"


def test_one_answer_after_another_goes_on(
    shared: LLMPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "talk.safetensors"
    arguments = ["chat", "model", "--session", str(file), "--max-new-tokens", "3"]
    assert run([*arguments, "--prompt", TEXT]) == 0
    assert "Saved 2 messages" in capsys.readouterr().err
    assert run([*arguments, "--prompt", "And room 7?"]) == 0
    err = capsys.readouterr().err
    assert "Loaded 2 messages" in err
    assert "reused)" in err
    assert run([*arguments, "--prompt", "And room 8?", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["metrics"]["num_reused_tokens"] > 500
    assert err == ""
    assert run([*arguments, "--prompt", "And room 9?"]) == 0
    assert "Saved 8 messages" in capsys.readouterr().err
    check(shared)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_session_is_one_line_and_exit_code_2(
    shared: LLMPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = tmp_path / "talk.safetensors"
    chat = shared.chat()
    chat.ask(TEXT, max_new_tokens=2)
    shared.save_session(file, chat)
    chat.close()
    damage, message = DAMAGES[name]
    damage(file)
    if not file.exists():
        return  # then it is made
    before = file.read_bytes() if file.is_file() else None
    used = shared.get_metrics()["kv_cache"]["used_bytes"]
    err = fails(capsys, "chat", "model", "--session", str(file), "--prompt", "hi")
    assert message in err
    assert shared.get_metrics()["kv_cache"]["used_bytes"] == used
    check(shared)
    assert (file.read_bytes() if file.is_file() else None) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--session", "talk.json"], "is not named like a session file"),
        (["--session", "nowhere/talk.safetensors"], "there is no folder"),
        (["--session", "talk.safetensors", "--engine", "genai"], "keeps no sessions"),
    ],
)
def test_what_could_not_be_saved_later_is_refused_at_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, "chat", "no-model", *arguments, "--prompt", "hi")


def test_another_system_message_is_refused(
    shared: LLMPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "talk.safetensors"
    arguments = ["chat", "model", "--session", str(file), "--max-new-tokens", "2"]
    assert run([*arguments, "--prompt", "Hello", "--system", "Be brief."]) == 0
    assert run([*arguments, "--prompt", "Hello", "--system", "Be brief."]) == 0
    assert run([*arguments, "--prompt", "Hello"]) == 0
    capsys.readouterr()
    err = fails(capsys, *arguments, "--prompt", "Hello", "--system", "Be long.")
    assert "--system is not the system message of" in err


def test_a_conversation_that_was_emptied_leaves_the_file(
    needle_int8_dir: Path, tmp_path: Path, no_stdin: None
) -> None:
    file = tmp_path / "talk.safetensors"
    arguments = ["chat", str(needle_int8_dir), "--session", str(file), *BUDGET]
    assert run([*arguments, "--prompt", "Hello", "--max-new-tokens", "2"]) == 0
    before = file.read_bytes()
    with Terminal(*arguments) as chat:
        chat.read_until(r"\n> ")
        chat.say("/clear")
        chat.type(CTRL_D)
        chat.read_until("nothing to save")
        assert chat.wait() == 0
    assert file.read_bytes() == before


# ------------------------------------------------------------------ crush


def test_a_document_is_crushed_once_and_asked_about(
    needle_int8_dir: Path, document: Path, tmp_path: Path
) -> None:
    file = tmp_path / "rooms.safetensors"
    command = [sys.executable, "-m", "ov_kvcrush.cli"]
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
    document.write_text(" ".join(f"Room {n} is {7 * n}." for n in range(550)))
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
    check(shared)


def test_only_a_document_is_replaced_unasked(
    shared: LLMPipeline, document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rooms.safetensors"
    arguments = ["crush", str(tmp_path), str(document), "-o", str(file), *BUDGET]
    file.write_text("weights, say")
    assert "is no crushed document, but a file of another kind" in fails(capsys, *arguments)
    assert file.read_text() == "weights, say"
    assert run([*arguments, "--overwrite"]) == 0
    assert run(arguments) == 0
    file.unlink()
    assert run(["chat", "model", "--session", str(file), "--prompt", "Hello"]) == 0
    capsys.readouterr()
    assert "is no crushed document, but a chat" in fails(capsys, *arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "UTF-8")],
)
def test_a_document_that_is_no_text_is_refused(
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
    assert "the model was made to read" in fails(capsys, "crush", *arguments)
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
