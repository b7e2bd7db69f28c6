"""Chats of a pipeline: each turn reads only what is new, and what was cut stays cut."""

from __future__ import annotations

from typing import Any

import openvino_genai as genai
import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.errors import PromptError
from tests.support.answers import decoded
from tests.support.pipelines import TEXT, used_bytes
from tests.support.texts import document


def test_a_chat_reads_only_the_new_turn(evicting: LLMPipeline) -> None:
    chat = evicting.chat("You read numbers.")
    first = chat.ask(f"{document()} What is room 7?")
    second = chat.ask("And room 8?")
    assert first.metrics[0].num_reused_tokens == 0
    metrics = second.metrics[0]
    assert metrics.restarted == ""
    assert metrics.num_prompt_tokens - metrics.num_reused_tokens < 20
    assert metrics.kv_tokens <= 96 + 20
    assert [m["role"] for m in chat.messages] == ["system"] + 2 * ["user", "assistant"]
    chat.close()
    assert used_bytes(evicting) == 0


def test_a_chat_without_eviction_answers_like_openvino_genai(
    ours: LLMPipeline, theirs: genai.LLMPipeline
) -> None:
    chat = ours.chat()
    history = genai.ChatHistory()
    for question in (f"{document()} What is room 7?", "And room 8?", "Which room is first?"):
        history.append({"role": "user", "content": question})
        wanted = theirs.generate(history, max_new_tokens=16).texts[0]
        history.append({"role": "assistant", "content": wanted})
        assert chat.ask(question, max_new_tokens=16).texts[0] == wanted
    chat.close()


def test_start_chat_keeps_a_conversation(ours: LLMPipeline) -> None:
    ours.start_chat()
    ours.generate("Hello, I am Ada.", max_new_tokens=8)
    ours.generate("Who am I?", max_new_tokens=8)
    assert ours.get_metrics()["last"][0]["num_reused_tokens"] > 8
    ours.finish_chat()
    ours.generate("Who am I?", max_new_tokens=8)
    assert ours.get_metrics()["last"][0]["num_reused_tokens"] == 0


def test_a_growing_history_finds_its_cache_again(evicting: LLMPipeline) -> None:
    messages = [{"role": "user", "content": document()}]
    other = genai.ChatHistory([{"role": "user", "content": document(1)}])
    answer = decoded(evicting.generate(genai.ChatHistory(messages))).texts[0]
    evicting.generate(other)
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "Go on."}]
    metrics = decoded(evicting.generate(genai.ChatHistory(messages))).metrics[0]
    assert metrics.num_prompt_tokens - metrics.num_reused_tokens < 20


def test_an_edited_history_starts_over_and_says_so(evicting: LLMPipeline) -> None:
    chat = evicting.chat()
    chat.ask(f"{document()} What is room 7?")
    chat.set_system_message("Be brief.")
    metrics = chat.ask("And room 8?").metrics[0]
    assert metrics.num_reused_tokens == 0
    assert "differs from the cached one" in metrics.restarted


def test_a_question_can_be_taken_back_and_asked_again(ours: LLMPipeline) -> None:
    chat = ours.chat()
    with pytest.raises(PromptError, match="no answer to take back"):
        chat.take_back()
    first = chat.ask(TEXT, max_new_tokens=8)
    assert chat.take_back() == TEXT
    again = chat.ask(TEXT, max_new_tokens=8)
    assert again.texts == first.texts
    assert again.metrics[0].num_reused_tokens == again.metrics[0].num_prompt_tokens - 1
    chat.close()


def test_messages_put_in_are_checked_and_made_text(ours: LLMPipeline) -> None:
    chat = ours.chat()
    parts = [{"type": "text", "text": "Hello"}]
    said: list[Any] = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "Hi"},
    ]
    chat.replace_messages(said)
    assert chat.messages[0] == {"role": "user", "content": "Hello"}
    with pytest.raises(PromptError, match="unknown role"):
        chat.replace_messages([{"role": "wizard", "content": "Hello"}])
    assert chat.take_back() == "Hello"
    chat.replace_messages([])
    assert chat.messages == []


def test_chats_that_nobody_holds_give_their_cache_back(ours: LLMPipeline) -> None:
    before, kept = used_bytes(ours), ours.chat()
    kept.ask("Hello", max_new_tokens=4)
    held = used_bytes(ours)
    for number in range(4):
        ours.chat().ask(f"{number} {TEXT}", max_new_tokens=4)
    assert used_bytes(ours) == held
    assert kept.ask("Still there?", max_new_tokens=4).metrics[0].num_reused_tokens > 0
    del kept
    assert used_bytes(ours) == before
