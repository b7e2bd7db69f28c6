"""A conversation: asked again, emptied, given another system message; and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.cli.chat.conversation import Attachment, Conversation
from ov_kvcrush.errors import PromptError
from tests.support.screens import SETTINGS, FakeScreen


def interrupt(_: str) -> None:
    raise KeyboardInterrupt


def test_regen_answers_the_last_message_again_from_the_cache(screen: FakeScreen) -> None:
    screen.ask("Hello")
    first = screen.ask("And again")
    note = screen.do("/regen")
    assert "do_sample" in note  # greedy: the same again
    assert screen.results[0].texts == first.texts
    assert screen.results[0].metrics[0].num_reused_tokens > 0
    assert len(screen.messages) == 4


def test_regen_draws_another_answer_each_time(screen: FakeScreen) -> None:
    screen.do("/set temperature 2")
    screen.do("/set ignore_eos true")
    texts = [screen.ask("Tell me").texts[0]]
    for _ in range(3):
        screen.do("/regen")
        texts.append(screen.results[-1].texts[0])
    assert len(set(texts)) == 4


def test_every_answer_that_is_drawn_has_a_seed_of_its_own_that_draws_it_again(
    screen: FakeScreen, pipeline: LLMPipeline
) -> None:
    screen.do("/set temperature 2")
    screen.do("/set ignore_eos true")
    assert screen.conversation.describe_settings()["rng_seed"] is None
    assert re.search(r"rng_seed +drawn for each answer", screen.do("/show"))
    drawn = {}
    for _ in range(3):
        text = screen.ask("Tell me").texts[0]
        seed = screen.conversation.describe_settings()["rng_seed"]
        assert re.search(rf"rng_seed +{seed}\n", screen.do("/show"))
        drawn[seed] = text
        screen.do("/clear")
    assert len(set(drawn.values())) == 3
    for seed, text in drawn.items():
        assert re.search(rf"rng_seed = {seed}", screen.do(f"/set rng_seed {seed}"))
        assert screen.ask("Tell me").texts == [text]
        screen.do("/clear")


def test_a_seed_that_was_given_stays(pipeline: LLMPipeline) -> None:
    settings = {**SETTINGS, "do_sample": True, "temperature": 2.0, "rng_seed": 0}
    first, second = (Conversation(pipeline, settings) for _ in range(2))
    assert first.ask("Tell me").texts == second.ask("Tell me").texts
    assert first.describe_settings()["rng_seed"] == 0


def test_a_greedy_answer_draws_no_seed(screen: FakeScreen) -> None:
    screen.ask("Hello")
    assert screen.conversation.describe_settings()["rng_seed"] == 0


def test_regen_before_any_question_says_so(screen: FakeScreen) -> None:
    with pytest.raises(PromptError, match="no answer to take back"):
        screen.do("/regen")


def test_a_question_whose_answer_was_broken_off_is_asked_by_regen(screen: FakeScreen) -> None:
    screen.ask("First")
    with pytest.raises(KeyboardInterrupt):
        screen.conversation.ask("Second", interrupt)
    assert [m["content"] for m in screen.messages if m["role"] == "user"] == ["First"]
    screen.do("/regen")
    assert [m["content"] for m in screen.messages if m["role"] == "user"] == ["First", "Second"]


def test_what_is_attached_stays_until_there_is_an_answer(screen: FakeScreen) -> None:
    screen.conversation.attached = [Attachment("rooms.txt", "Room 7 is blue.", 5)]
    with pytest.raises(KeyboardInterrupt):
        screen.conversation.ask("Which colour?", interrupt)
    assert [one.name for one in screen.conversation.attached] == ["rooms.txt"]
    screen.ask("And room 7?")
    assert screen.conversation.attached == []
    assert screen.messages[0]["content"] == "Room 7 is blue.\n\nAnd room 7?"


def test_regen_asks_with_what_was_attached_then(screen: FakeScreen) -> None:
    screen.conversation.attached = [Attachment("rooms.txt", "Room 7 is blue.", 5)]
    with pytest.raises(KeyboardInterrupt):
        screen.conversation.ask("Which colour?", interrupt)
    screen.conversation.attached.append(Attachment("more.txt", "Room 8 is red.", 5))
    screen.do("/regen")
    assert screen.messages[0]["content"] == "Room 7 is blue.\n\nWhich colour?"
    assert [one.name for one in screen.conversation.attached] == ["more.txt"]


def test_what_is_attached_later_is_not_lost_by_a_regen(screen: FakeScreen) -> None:
    screen.ask("First")
    screen.conversation.attached = [Attachment("rooms.txt", "Room 7 is blue.", 5)]
    screen.do("/regen")
    assert [one.name for one in screen.conversation.attached] == ["rooms.txt"]


def test_turns_are_unsaved_until_they_are_in_a_file(screen: FakeScreen, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    conversation = screen.conversation
    assert not conversation.has_unsaved_turns
    screen.do("/system Be brief.")
    assert not conversation.has_unsaved_turns
    screen.ask("Hello")
    assert conversation.has_unsaved_turns
    screen.do(f"/save {file}")
    assert not conversation.has_unsaved_turns
    screen.ask("And again")
    assert conversation.has_unsaved_turns
    screen.do(f"/load {file}")
    assert not conversation.has_unsaved_turns
    screen.do("/system Be long.")
    assert conversation.has_unsaved_turns
    screen.do("/clear")
    assert not conversation.has_unsaved_turns


def test_a_regen_that_is_broken_off_leaves_the_answer_before(screen: FakeScreen) -> None:
    screen.ask("First")
    before = list(screen.messages)
    with pytest.raises(KeyboardInterrupt):
        screen.conversation.ask_again(interrupt)
    assert screen.messages == before
    screen.do("/regen")
    assert [m["content"] for m in screen.messages] == [m["content"] for m in before]


def test_clear_keeps_only_the_system_message(screen: FakeScreen) -> None:
    screen.do("/system Be brief.")
    screen.ask("Hello")
    assert "system message stays" in screen.do("/clear")
    assert screen.messages == [{"role": "system", "content": "Be brief."}]
    with pytest.raises(PromptError):
        screen.do("/regen")


def test_clear_gives_the_pages_back(pipeline: LLMPipeline) -> None:
    screen = FakeScreen(Conversation(pipeline, SETTINGS))
    before = pipeline.get_metrics()["kv_cache"]["used_bytes"]
    screen.ask("Hello")
    assert pipeline.get_metrics()["kv_cache"]["used_bytes"] > before
    screen.do("/clear")
    assert pipeline.get_metrics()["kv_cache"]["used_bytes"] == before


def test_a_system_message_is_set_replaced_and_removed(screen: FakeScreen) -> None:
    assert screen.do("/system Be brief.") == "System message set."
    screen.ask("Hello")
    assert "reads the conversation anew" in screen.do("/system Be long.")
    assert screen.conversation.system_message == "Be long."
    assert "removed" in screen.do("/system")
    assert screen.conversation.system_message == ""
    assert len(screen.messages) == 2


def test_an_answer_without_any_limit_gets_one(pipeline: LLMPipeline) -> None:
    unlimited = 2**64 - 1
    conversation = Conversation(pipeline, {"max_new_tokens": unlimited})
    assert conversation.describe_settings()["max_new_tokens"] == 2048
    conversation.change_settings({"max_length": 4096})
    assert conversation.describe_settings()["max_new_tokens"] is None


def test_bytes_that_are_not_text_are_refused(screen: FakeScreen) -> None:
    with pytest.raises(PromptError, match="cannot be written as UTF-8"):
        screen.ask("broken \udcff")
    assert screen.ask("Hello").texts
