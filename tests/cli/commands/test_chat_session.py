"""``chat --session``: a file that is gone on from, and saved at the end."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.cli import run
from ov_kvcrush.cli.chat import session_file
from ov_kvcrush.cli.chat.conversation import Conversation
from ov_kvcrush.cli.chat.session_file import SessionFile, save_chat
from ov_kvcrush.pipeline.saving import saved_kind
from tests.support.commands import fails
from tests.support.damaged_sessions import DAMAGES
from tests.support.pipelines import engine_in
from tests.support.session_holder import held_elsewhere
from tests.support.terminal import CTRL_D, Terminal
from tests.support.texts import rooms

TEXT = rooms(60)
BUDGET = ["--max-cache-size", "160"]


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
        assert chat.leave_by_ctrl_c() == 0
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
    engine_in(shared).check_integrity()


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
    engine_in(shared).check_integrity()
    assert (file.read_bytes() if file.is_file() else None) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--session", "talk.json"], "is not named like a session file"),
        (["--session", "nowhere/talk.safetensors"], "there is no folder"),
        (["--session", "talk.safetensors", "--engine", "genai"], "cannot save or load sessions"),
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


def test_one_more_ctrl_c_while_the_chat_is_saved_does_not_lose_it(
    shared: LLMPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "talk.safetensors"

    def impatient(*arguments: Any) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return save_chat(*arguments)

    monkeypatch.setattr(session_file, "save_chat", impatient)
    assert run(["chat", "model", "--session", str(file), "--prompt", "Hello"]) == 130
    assert saved_kind(file) == "chat"


def test_a_chat_is_saved_in_its_own_file_but_not_over_a_document(
    shared: LLMPipeline, tmp_path: Path
) -> None:
    file, document = tmp_path / "talk.safetensors", tmp_path / "rooms.safetensors"
    with shared.cache_prefix("Room 7 is blue.\n\n") as prefix:
        shared.save_session(document, prefix)
    assert SessionFile(file, "paged").saves
    assert not SessionFile(document, "paged").saves
    assert not SessionFile(None, "paged").saves


def test_a_session_in_use_is_refused_at_once_whoever_wants_to_write_to_it(
    needle_int8_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_stdin: None
) -> None:
    file, document = tmp_path / "talk.safetensors", tmp_path / "text.txt"
    document.write_text(TEXT)
    arguments = ["chat", str(needle_int8_dir), "--session", str(file), *BUDGET]
    with Terminal(*arguments) as chat:
        chat.read_until(r"\n> ")
        for other in (
            ["chat", "no-model", "--session", str(file), "--prompt", "hi"],
            ["crush", "no-model", str(document), "-o", str(file), "--overwrite", *BUDGET],
        ):
            err = fails(capsys, *other)
            assert f"{file} is in use by another program (process " in err
            assert "choose another file" in err
        chat.say("Hello")
        chat.say(f"/save {file}")  # its own
        with Terminal("chat", str(needle_int8_dir), *BUDGET) as other_chat:
            other_chat.read_until(r"\n> ")
            assert "Loaded 2 messages" in other_chat.say(f"/load {file}")
            assert "is in use by another program" in other_chat.say(f"/save {file}")
            chat.say("Go on")
            chat.type(CTRL_D)
            chat.read_until(f"Saved 4 messages .* to {file}")
            assert chat.wait() == 0
            other_chat.say("Go on otherwise")
            assert "was changed by another chat since" in other_chat.say(f"/save {file}")
    assert sorted(os.listdir(tmp_path)) == sorted([file.name, document.name])


def test_a_document_serves_many_chats_at_once_also_where_nothing_can_be_written(
    shared: LLMPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rooms.safetensors"
    with shared.cache_prefix(f"{TEXT}\n\n") as prefix:
        shared.save_session(file, prefix)
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK)
    with held_elsewhere(file):
        arguments = ["--session", str(file), "--prompt", "Room 7?", "--max-new-tokens", "1"]
        assert run(["chat", "model", *arguments]) == 0


def test_a_chat_whose_file_was_replaced_meanwhile_is_kept_beside_it(
    shared: LLMPipeline,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "talk.safetensors"
    arguments = ["chat", "model", "--session", str(file), "--max-new-tokens", "2", "--prompt"]
    assert run([*arguments, "Hello"]) == 0
    replaced = b"of a program that knows no locks"
    ask = Conversation.ask

    def replace_and_ask(*given: Any, **more: Any) -> Any:
        file.write_bytes(replaced)
        return ask(*given, **more)

    monkeypatch.setattr(Conversation, "ask", replace_and_ask)
    capsys.readouterr()
    assert run([*arguments, "Go on"]) == 2
    err = capsys.readouterr().err
    assert f"to {tmp_path / 'talk-2.safetensors'}" in err
    assert f"error: {file} exists and is not a saved session" in err
    assert file.read_bytes() == replaced
    arguments[3] = str(tmp_path / "talk-2.safetensors")
    assert run([*arguments, "And then?"]) == 0
