"""``ov-kvcrush chat`` as it is used: at a terminal, in a pipe, and with mistakes."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ov_kvcrush.cli import run
from ov_kvcrush.runtime.interface import ENGINES
from tests.support.commands import fails
from tests.support.terminal import CTRL_C, CTRL_D, Terminal
from tests.support.texts import rooms

COMMAND = [sys.executable, "-m", "ov_kvcrush.cli", "chat"]
ENDLESS = ["--ignore-eos", "--max-new-tokens", "4000"]
TEXT = rooms(40)
STATS = re.compile(
    r"TTFT [\d,.]+ ms · (?:TPOT [\d,.]+ ms · )?"
    r"(?P<prompt>[\d,]+) in(?: \((?P<reused>[\d,]+) reused\))?"
    r" · KV (?P<kept>[\d,]+)(?:/(?P<budget>[\d,]+))? tokens, [\d,.]+ MB(?: of [\d,.]+ MB)?"
    r", K u8 V u8(?:, (?P<evicted>[\d,]+) evicted)?\n"
)


def stats(screen: str) -> dict[str, int]:
    """The numbers of the one stats line in ``screen``; those it leaves out are 0."""
    found = [match.groupdict() for match in STATS.finditer(screen)]
    assert len(found) == 1, screen
    return {name: int((value or "0").replace(",", "")) for name, value in found[0].items()}


# ------------------------------------------------------------------ at a terminal


@pytest.fixture(scope="module")
def running(needle_int8_dir: Path) -> Iterator[Terminal]:
    with Terminal("chat", str(needle_int8_dir), "CPU", "--max-cache-size", "160") as terminal:
        terminal.read_until("/help shows the commands.*\n\n> ")
        yield terminal


@pytest.fixture
def chat(running: Terminal) -> Terminal:
    """A chat with nothing said yet."""
    assert "are empty" in running.say("/clear")
    return running


def test_a_turn_shows_the_answer_and_what_it_cost(chat: Terminal) -> None:
    screen = chat.say(TEXT)
    answer, _ = screen.removeprefix(f"{TEXT}\n").split("TTFT", 1)
    assert answer.strip()
    numbers = stats(screen)
    assert numbers["budget"] == 160
    assert numbers["evicted"] == numbers["prompt"] - 160
    assert numbers["reused"] == 0


def test_a_second_turn_reads_only_what_is_new(chat: Terminal) -> None:
    first = stats(chat.say(TEXT))
    second = stats(chat.say("And room 5?"))
    assert second["reused"] >= first["prompt"]
    assert second["prompt"] - second["reused"] < 30


def test_a_history_that_changed_is_read_anew_and_says_so(chat: Terminal) -> None:
    chat.say(TEXT)
    chat.say("/system Be brief.")
    screen = chat.say("And room 5?")
    assert "The history was read anew: " in screen
    assert stats(screen)["reused"] == 0
    chat.say("/system")


def test_mistakes_are_told_and_the_chat_goes_on(chat: Terminal, tmp_path: Path) -> None:
    assert "error: unknown command /foo\n" in chat.say("/foo")
    assert "Did you mean 'max_new_tokens'?\n" in chat.say("/set max_new_token 3")
    missing = tmp_path / "missing.txt"
    assert f"error: cannot read {missing}: No such file" in chat.say(f"/read {missing}")
    assert re.search(r"turns +0\n", chat.say("/show"))
    assert stats(chat.say("Hello"))["prompt"] > 0


def test_quotes_make_one_message_of_many_lines(chat: Terminal, tmp_path: Path) -> None:
    chat.type('"""/first\nsecond\n')
    stats(chat.say('third"""'))
    saved = tmp_path / "talk.json"
    chat.say(f"/save {saved}")
    assert json.loads(saved.read_text())["messages"][0]["content"] == "/first\nsecond\nthird"


def test_ctrl_c_drops_a_message_of_many_lines(chat: Terminal) -> None:
    chat.type('"""first\n')
    chat.read_until(r"\.\.\. ")
    chat.press_ctrl_c_at_prompt()
    assert "TTFT" not in chat.read_until(r"\n> ")
    assert re.search(r"turns +0\n", chat.say("/show"))


def test_a_saved_conversation_is_loaded(chat: Terminal, tmp_path: Path) -> None:
    first = stats(chat.say(TEXT))
    saved = tmp_path / "talk.json"
    assert f"Saved 2 messages to {saved}" in chat.say(f"/save {saved}")
    chat.say("/clear")
    assert "reads the history anew" in chat.say(f"/load {saved}")
    after = stats(chat.say("And room 5?"))
    assert after["reused"] > 0  # this process has read it before
    assert after["prompt"] > first["prompt"]


def test_a_file_is_read_and_asked_about(chat: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "rooms.txt"
    file.write_text(TEXT)
    tokens = re.search(r": ([\d,]+) tokens", chat.say(f"/read {file}"))
    assert tokens is not None
    assert stats(chat.say("Which is room 5?"))["prompt"] > int(tokens[1].replace(",", ""))


def test_ctrl_c_stops_an_answer_and_stays_in_the_chat(needle_int8_dir: Path) -> None:
    with Terminal("chat", str(needle_int8_dir), *ENDLESS) as chat:
        chat.read_until(r"\n> ")
        chat.type("Hello\n")
        chat.read_until(r"(?s)Hello\n.{20}")
        chat.type(CTRL_C)
        screen = chat.read_until(r"\n> ")
        assert "not part of the conversation" in screen
        assert "TTFT" not in screen
        assert len(screen) < 1000  # of 4,000 tokens
        chat.say("/set max_new_tokens 5")
        screen = chat.say("/regen")
        assert "cut off: max_new_tokens is 5" in screen
        assert stats(screen)["budget"] == 0
        assert re.search(r"turns +1\n", chat.say("/show"))
        chat.press_ctrl_c_at_prompt()
        assert chat.wait() == 0


def test_a_prompt_longer_than_the_pool_is_told_and_the_chat_goes_on(
    needle_int8_dir: Path,
) -> None:
    with Terminal("chat", str(needle_int8_dir), "--pool-size", "96") as chat:
        chat.read_until(r"\n> ")
        assert "the pool holds 96 tokens\n" in chat.say(TEXT)
        assert stats(chat.say("Hello"))["prompt"] < 96
        chat.type(CTRL_D)
        assert chat.wait() == 0


# ------------------------------------------------------------------ in a pipe


def test_a_piped_prompt_gives_the_answer_alone(needle_int8_dir: Path) -> None:
    done = subprocess.run(
        [*COMMAND, str(needle_int8_dir), "--prompt", "And room 5?"],
        input=TEXT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip()
    assert done.stdout.count("\n") == 1
    assert done.stdout.endswith("\n")
    assert stats(done.stderr)["prompt"] > 300  # TEXT and the question
    assert "Loading" not in done.stderr


def test_json_tells_answer_cost_and_settings(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str], no_stdin: None
) -> None:
    arguments = ["--json", "--prompt", TEXT, "--max-cache-size", "160", "--max-new-tokens", "2"]
    arguments += ["--ignore-eos", "--decode-precision", "f32"]
    assert run(["chat", str(needle_int8_dir), *arguments]) == 0
    out, err = capsys.readouterr()
    turn = json.loads(out)
    assert turn.keys() == {"answer", "finish_reason", "metrics", "generation_config", "config"}
    assert turn["finish_reason"] == "length"
    assert turn["metrics"]["num_generated_tokens"] == 2
    assert turn["metrics"]["num_evicted_tokens"] == turn["metrics"]["num_prompt_tokens"] - 160
    assert turn["generation_config"]["ignore_eos"] is True
    assert turn["config"]["kv_cache_config"]["max_cache_size"] == 160
    assert turn["config"]["decode_precision"] == "f32"
    assert err == ""


def test_ctrl_c_in_a_pipe_is_130(needle_int8_dir: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, str(needle_int8_dir), *ENDLESS, "--prompt", "Hello"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_reader_that_leaves_early_ends_the_answer_quietly(needle_int8_dir: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, str(needle_int8_dir), *ENDLESS, "--prompt", "Hello"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5)
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == ""


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to answer: stdin is empty"),
        (["--prompt", " "], "nothing to answer: stdin is empty"),
        (["gpx", "--prompt", "hi"], "'gpx' is not a device of this machine"),
        (["--prompt", "hi", "--max-cache-size", "90"], "leaves nothing to choose"),
        (["--prompt", "hi", "--max-cash-size", "90"], "Did you mean '--max-cache-size'?"),
        (["--prompt", "hi", "--anchor", "mast"], "'mean'"),
        (["--prompt", "hi", "--engine", "pages"], "Did you mean 'paged'?"),
        (["--prompt", "hi", "--property", "FOO"], "'FOO' is not KEY=VALUE"),
        (["--prompt", "hi", "--property", "FOO=1"], "'FOO' is not a property"),
        (["--prompt", "hi", "--top-k", "-1"], "top_k is -1"),
        (["--prompt", TEXT, "--pool-size", "96"], "the pool holds 96 tokens"),
    ],
)
def test_a_mistake_is_one_line_a_hint_and_exit_code_2(
    needle_int8_dir: Path,
    capsys: pytest.CaptureFixture[str],
    no_stdin: None,
    arguments: list[str],
    message: str,
) -> None:
    assert message in fails(capsys, "chat", str(needle_int8_dir), *arguments)


def test_a_missing_and_a_foreign_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_stdin: None
) -> None:
    missing = str(tmp_path / "nothing")
    assert "no such model folder" in fails(capsys, "chat", missing, "--prompt", "hi")
    assert "holds no OpenVINO model" in fails(capsys, "chat", str(tmp_path), "--prompt", "hi")


def test_piped_bytes_that_are_no_text(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert "not text in UTF-8" in fails(capsys, "chat", str(needle_int8_dir))


def test_json_is_not_for_a_conversation(
    needle_int8_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert "--json is for one answer" in fails(capsys, "chat", str(needle_int8_dir), "--json")


def test_help_names_every_engine_and_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "--help"]) == 0
    text = capsys.readouterr().out
    assert "|".join(ENGINES) in text
    assert "Examples:" in text
