"""Each command of a chat, on the real model and a screen that remembers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.cli.chat.conversation import Conversation
from ov_kvcrush.cli.chat.conversation_file import read_conversation
from ov_kvcrush.cli.chat.slash_commands import SLASH_COMMANDS, LeaveChat, is_command
from ov_kvcrush.errors import ConfigError, OVKVCrushError, PromptError
from tests.support.screens import SETTINGS, FakeScreen

# ------------------------------------------------------------------ finding the command


def test_help_names_every_command(screen: FakeScreen) -> None:
    text = screen.do("/help")
    assert all(name in text for name in SLASH_COMMANDS)


def test_an_unknown_command_suggests_the_closest(screen: FakeScreen) -> None:
    with pytest.raises(OVKVCrushError, match="unknown command /claer") as caught:
        screen.do("/claer")
    assert "'/clear'" in caught.value.hint
    assert screen.messages == []


@pytest.mark.parametrize("line", ["/set", "/set top_k", "/save", "/load", "/exit now"])
def test_a_wrong_number_of_arguments_shows_the_usage(screen: FakeScreen, line: str) -> None:
    with pytest.raises(OVKVCrushError, match=f"usage: {line.split()[0]}"):
        screen.do(line)


def test_exit_leaves(screen: FakeScreen) -> None:
    with pytest.raises(LeaveChat):
        screen.do("/exit")


# ------------------------------------------------------------------ /set and /show


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("/set max_new_tokens 3", "max_new_tokens", 3),
        ("/set ignore_eos True", "ignore_eos", True),
        ("/set repetition_penalty 1.1", "repetition_penalty", 1.1),
        ("/set stop_strings the end", "stop_strings", ["the end"]),
        ('/set stop_strings ["a", "b"]', "stop_strings", ["a", "b"]),
    ],
)
def test_set_changes_a_setting(screen: FakeScreen, line: str, name: str, value: object) -> None:
    screen.do(line)
    assert screen.conversation.describe_settings()[name] == value


def test_set_counts_for_the_next_answer(screen: FakeScreen) -> None:
    screen.do("/set ignore_eos true")
    screen.do("/set max_new_tokens 3")
    assert screen.ask("Hello").metrics[0].num_generated_tokens == 3


def test_setting_a_temperature_turns_sampling_on_and_says_so(screen: FakeScreen) -> None:
    assert screen.do("/set temperature 0.5") == "temperature = 0.5, do_sample = true"


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("/set max_new_token 3", "unknown generation setting", "'max_new_tokens'"),
        ("/set max_new_tokens many", "it takes a whole number", ""),
        ("/set max_cache_size 9", "fixed when the model is loaded", "--max-cache-size"),
        ("/set seed 9", "unknown generation setting", "'rng_seed'"),
        ("/set colour blue", "unknown generation setting", "Known: do_sample, eos_token_id, "),
        ("/set num_beam 4", "unknown generation setting", "'num_beams'"),
        ("/set num_return_sequences 2", "cannot be set in a chat", ""),
        ("/set num_beams 4", "does not serve beam search", ""),
    ],
)
def test_what_cannot_be_set_is_refused_and_changes_nothing(
    screen: FakeScreen, line: str, message: str, hint: str
) -> None:
    with pytest.raises(OVKVCrushError, match=message) as caught:
        screen.do(line)
    assert hint in caught.value.hint
    assert screen.conversation.settings == SETTINGS


def test_what_is_listed_can_be_set(screen: FakeScreen) -> None:
    with pytest.raises(ConfigError) as caught:
        screen.do("/set colour blue")
    listed = caught.value.hint.removeprefix("Known: ").removesuffix(".").split(", ")
    assert listed == list(screen.conversation.describe_settings())


def test_a_temperature_of_0_is_greedy_until_there_is_another(screen: FakeScreen) -> None:
    screen.do("/set temperature 0.5")
    assert screen.do("/set temperature 0") == "temperature = 0.0, do_sample = false"
    assert screen.ask("Hello").texts
    assert screen.do("/set temperature 0.7") == "temperature = 0.7, do_sample = true"
    assert screen.do("/set top_p 0.9") == "top_p = 0.9"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("/help", True),
        (" /set top_k 3\n", True),
        ("/unknown", True),
        ("/system Be brief.\nBe kind.", True),
        ("/usr/bin\n/usr/lib", False),
        ("What is /help?", False),
        ("", False),
    ],
)
def test_a_command_is_a_line_with_a_slash_or_begins_with_a_commands_name(
    text: str, is_one: bool
) -> None:
    assert is_command(text) == is_one


def test_what_is_not_served_may_be_set_to_its_default(screen: FakeScreen) -> None:
    assert screen.do("/set num_beams 1") == "num_beams = 1"


def test_show_tells_settings_engine_and_use(screen: FakeScreen) -> None:
    screen.ask("Hello")
    text = screen.do("/show")
    for line in (
        r"turns +1",
        r"max_new_tokens +8",
        r"key_cache_precision +f32",
        r"max_cache_size +96",
        r"used_bytes +\d\.\d+ MB",
    ):
        assert re.search(line, text), line


def test_a_value_that_is_nested_too_deep_is_a_text(screen: FakeScreen) -> None:
    with pytest.raises(ConfigError, match="it takes a whole number"):
        screen.do(f"/set max_new_tokens {'[' * 100_000}")


# ------------------------------------------------------------------ /read, /save, /load


@pytest.mark.parametrize("command", ["/read", "/save", "/load"])
@pytest.mark.parametrize(
    "name", ["a" * 5000, "a" * 5000 + ".safetensors", "a\0b", "/dev/null/a", "/proc/self/mem", "/"]
)
def test_names_that_no_file_can_have_are_refused(
    screen: FakeScreen, command: str, name: str
) -> None:
    screen.ask("Hello")
    with pytest.raises(OVKVCrushError):
        screen.do(f"{command} {name}")
    assert screen.conversation.has_unsaved_turns


@pytest.mark.parametrize("name", ["/dev/zero", "/"])
def test_what_is_not_a_file_is_not_read(screen: FakeScreen, name: str) -> None:
    with pytest.raises(OVKVCrushError, match="is not a file"):
        screen.do(f"/read {name}")


def test_a_file_that_was_read_comes_before_the_next_message_only(
    screen: FakeScreen, tmp_path: Path
) -> None:
    file = tmp_path / "two words.txt"
    file.write_text("Room 7 is blue.\n")
    assert "tokens, sent with your next message" in screen.do(f"/read {file}")
    screen.ask("Which colour?")
    assert screen.messages[0]["content"] == "Room 7 is blue.\n\nWhich colour?"
    screen.ask("Sure?")
    assert screen.messages[2]["content"] == "Sure?"


def test_a_question_behind_a_file_is_asked_about_it(screen: FakeScreen, tmp_path: Path) -> None:
    file = tmp_path / "two words.txt"
    file.write_text("Room 7 is blue.\n")
    assert screen.do(f'/read "{file}" Which colour?\nAnd why?').startswith(f"{file}: ")
    assert screen.messages[0]["content"] == "Room 7 is blue.\n\nWhich colour?\nAnd why?"
    assert screen.results[-1].texts[0] == screen.messages[1]["content"]
    assert screen.conversation.attached == []


def test_read_alone_drops_what_was_read(screen: FakeScreen, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Room 7 is blue.")
    screen.do(f"/read {file}")
    assert re.search(rf"attached +{file} \(\d+ tokens\)", screen.do("/show"))
    assert "Nothing is attached" in screen.do("/read")
    screen.ask("Hello")
    assert screen.messages[0]["content"] == "Hello"


def test_clear_drops_a_file_that_was_read(screen: FakeScreen, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Room 7 is blue.")
    screen.do(f"/read {file}")
    screen.do("/clear")
    screen.ask("Hello")
    assert screen.messages[0]["content"] == "Hello"


def test_a_file_that_is_missing_or_empty_is_refused(screen: FakeScreen, tmp_path: Path) -> None:
    with pytest.raises(OVKVCrushError, match="No such file"):
        screen.do(f"/read {tmp_path / 'nothing.txt'}")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    with pytest.raises(PromptError, match="is empty"):
        screen.do(f"/read {empty}")
    assert screen.conversation.attached == []


def test_a_saved_conversation_goes_on_where_it_was(
    screen: FakeScreen, pipeline: LLMPipeline, tmp_path: Path
) -> None:
    file = tmp_path / "talk.json"
    screen.do("/system Be brief.")
    screen.ask("Hello")
    assert "Saved 3 messages" in screen.do(f"/save {file}")
    other = FakeScreen(Conversation(pipeline, {}))
    other.ask("Something else")
    assert "reads the history anew" in other.do(f"/load {file}")
    assert other.messages == screen.messages
    assert other.conversation.settings == SETTINGS
    continued = other.ask("Go on")
    assert continued.metrics[0].num_reused_tokens == 0
    # Not the answer of the conversation that was saved: it computes less, in other batches, and the
    # last bits of bf16 may choose another word.
    anew = FakeScreen(Conversation(pipeline, SETTINGS))
    anew.conversation.chat.replace_messages(screen.messages)
    assert continued.texts == anew.ask("Go on").texts


def test_a_file_with_a_setting_that_does_not_exist_changes_nothing(
    screen: FakeScreen, tmp_path: Path
) -> None:
    file = tmp_path / "talk.json"
    screen.do(f"/save {file}")
    file.write_text(file.read_text().replace("max_new_tokens", "max_new_token"))
    assert read_conversation(file, {})[1] == {"max_new_token": 8}
    screen.ask("Hello")
    before = list(screen.messages)
    with pytest.raises(ConfigError, match="max_new_token"):
        screen.do(f"/load {file}")
    assert screen.messages == before
    assert screen.conversation.settings == SETTINGS
