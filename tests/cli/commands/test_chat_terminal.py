"""``ov-kvcrush chat`` at a terminal: turns, messages of many lines, Ctrl+C, files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import stats
from tests.support.terminal import CTRL_C, CTRL_D, UP, Terminal
from tests.support.texts import rooms

ENDLESS = ["--ignore-eos", "--max-new-tokens", "4000"]
TEXT = rooms(40)


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
    chat.type(UP * 2)  # over /save
    stats(chat.say(""))
    chat.say(f"/save {saved}")
    questions = [m["content"] for m in json.loads(saved.read_text())["messages"][::2]]
    assert questions == ["/first\nsecond\nthird"] * 2


def test_pasted_lines_are_one_message_and_one_entry_of_the_history(
    chat: Terminal, tmp_path: Path
) -> None:
    saved = tmp_path / "talk.json"
    chat.paste("/first\n\nsecond ü 😀\n")
    stats(chat.say("third"))
    chat.type(UP)
    stats(chat.say(" again"))
    chat.say(f"/save {saved}")
    questions = [m["content"] for m in json.loads(saved.read_text())["messages"][::2]]
    assert questions == ["/first\n\nsecond ü 😀\nthird", "/first\n\nsecond ü 😀\nthird again"]


def test_lines_that_are_pasted_during_an_answer_are_one_message_after_it(
    chat: Terminal, tmp_path: Path
) -> None:
    saved, file = tmp_path / "talk.json", tmp_path / "rooms.txt"
    file.write_text(rooms(200))
    chat.type(f"/read {file} Which is room 5?\n")
    chat.read_until(f"{file}: .* tokens\\.\n")
    chat.paste("first\nsecond")
    stats(chat.read_until(r"\n> "))
    stats(chat.say(""))
    chat.say(f"/save {saved}")
    questions = [m["content"] for m in json.loads(saved.read_text())["messages"][::2]]
    assert questions[1:] == ["first\nsecond"]


def test_ctrl_c_at_the_prompt_drops_the_line_and_stays(chat: Terminal, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    chat.type("not meant")
    chat.read_until("not meant")
    chat.press_ctrl_c_at_prompt()
    chat.read_until(r"Ctrl\+C once more, or Ctrl\+D, leaves\.\n\n> ")
    stats(chat.say("Hello"))
    chat.say(f"/save {saved}")
    assert json.loads(saved.read_text())["messages"][0]["content"] == "Hello"


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
    tokens = re.search(r": ([\d,]+) tokens", chat.say(f'/read "{file}"'))
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


def test_a_prompt_longer_than_the_pool_is_told_and_the_chat_goes_on(
    needle_int8_dir: Path,
) -> None:
    with Terminal("chat", str(needle_int8_dir), "--pool-size", "96") as chat:
        chat.read_until(r"\n> ")
        assert "the pool holds 96 tokens\n" in chat.say(TEXT)
        assert stats(chat.say("Hello"))["prompt"] < 96


def test_a_long_prompt_shows_how_far_it_is_read_and_what_was_attached_stays(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "many rooms.txt"
    file.write_text(rooms(500))
    with Terminal("chat", str(needle_int8_dir), "--max-new-tokens", "20") as chat:
        chat.read_until(r"\n> ")
        chat.type(f'/read "{file}" Which is room 7?\n')
        chat.read_until(r"Reading [\d,]+ of [\d,]+ tokens")
        chat.type(CTRL_C)
        screen = chat.read_until(r"\n> ")
        assert "Stopped." in screen
        assert re.search(rf"Attached to your next message: {file} \([\d,]+ tokens\)", screen)
        assert "Nothing is attached" in chat.say("/read")
        assert stats(chat.say("Hello"))["prompt"] < 100


def test_who_leaves_is_offered_to_save_what_was_said(needle_int8_dir: Path, tmp_path: Path) -> None:
    saved, foreign = tmp_path / "my talk.json", tmp_path / "notes.txt"
    foreign.write_text("mine")
    offer = "Name a file to save the conversation, or press Enter: "
    with Terminal("chat", str(needle_int8_dir)) as chat:
        chat.read_until(r"\n> ")
        chat.say("Hello")
        chat.type(CTRL_D)
        chat.read_until(offer)
        chat.type(f"{foreign}\n")
        chat.read_until(f"error: {foreign} exists and is not a saved conversation")
        chat.read_until(offer)
        chat.type(f'"{saved}"\n')
        chat.read_until(f"Saved 2 messages to {saved}")
        assert chat.wait() == 0
    assert foreign.read_text() == "mine"
    with Terminal("chat", str(needle_int8_dir)) as chat:
        chat.read_until(r"\n> ")
        chat.say(f"/load {saved}")
        chat.say("Go on")
        chat.type("/exit\n")
        chat.read_until(offer)
        chat.type(CTRL_D)
        assert chat.wait() == 0
    assert len(json.loads(saved.read_text())["messages"]) == 2


def test_who_has_nothing_to_lose_leaves_at_once(needle_int8_dir: Path, tmp_path: Path) -> None:
    with Terminal("chat", str(needle_int8_dir)) as chat:
        chat.read_until(r"\n> ")
        chat.say("Hello")
        chat.say(f"/save {tmp_path / 'talk.json'}")
        chat.type(CTRL_D)
        assert chat.wait() == 0
