"""A streamer may call what it likes: it works, or is refused at once; nothing waits for ever."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.pipeline.reading import ReadingProgress
from tests.support.interrupting import interrupt_when
from tests.support.pipelines import TEXT, used_bytes


@pytest.fixture(autouse=True)
def ended_in_time() -> Iterator[None]:
    """What hangs is ended, and fails."""
    timer = threading.Timer(60, os.kill, (os.getpid(), signal.SIGABRT))
    timer.start()
    yield
    timer.cancel()


def calling_back(calls: list[Any], call: Callable[[], Any]) -> Callable[[str], None]:
    """A streamer that makes ``call`` once, and keeps what comes of it."""

    def streamer(_: str) -> None:
        if not calls:
            calls.append(None)
            calls[0] = call()

    return streamer


def test_a_streamer_may_generate_something_else(ours: LLMPipeline) -> None:
    wanted = ours.generate(TEXT, max_new_tokens=12, ignore_eos=True)
    inner = ours.generate("Another text.", max_new_tokens=20, ignore_eos=True)
    calls: list[Any] = []
    streamer = calling_back(
        calls, lambda: ours.generate("Another text.", max_new_tokens=20, ignore_eos=True)
    )
    assert ours.generate(TEXT, streamer=streamer, max_new_tokens=12, ignore_eos=True) == wanted
    assert calls == [inner]


def test_a_streamer_may_end_the_chat(ours: LLMPipeline) -> None:
    before = used_bytes(ours)
    ours.start_chat()
    answer = ours.generate(TEXT, max_new_tokens=6, ignore_eos=True)
    ours.start_chat()
    streamer = calling_back([], ours.finish_chat)
    assert ours.generate(TEXT, streamer=streamer, max_new_tokens=6, ignore_eos=True) == answer
    assert used_bytes(ours) == before


def test_a_closed_chat_keeps_nothing_of_the_answer_that_ran_on(ours: LLMPipeline) -> None:
    before, chat = used_bytes(ours), ours.chat()
    chat.ask(TEXT, streamer=calling_back([], chat.close), max_new_tokens=6, ignore_eos=True)
    assert used_bytes(ours) == before
    assert chat.ask("And then?", max_new_tokens=4).metrics[0].num_reused_tokens == 0
    assert chat.ask("And then?", max_new_tokens=4).metrics[0].num_reused_tokens > 0
    chat.close()


def test_a_chat_that_answers_cannot_be_asked_at_the_same_time(ours: LLMPipeline) -> None:
    chat = ours.chat()
    with pytest.raises(ConfigError, match="still answering"):
        chat.ask(TEXT, streamer=calling_back([], lambda: chat.ask("Me too?")), max_new_tokens=6)
    assert chat.messages == []
    chat.close()


@pytest.mark.parametrize("name", ["get_metrics", "describe", "get_generation_config"])
def test_a_streamer_may_ask_for_figures(ours: LLMPipeline, name: str) -> None:
    calls: list[Any] = []
    ours.generate(TEXT, streamer=calling_back(calls, getattr(ours, name)), max_new_tokens=4)
    assert calls[0]


def test_progress_may_call_back_too(ours: LLMPipeline) -> None:
    answers: list[Any] = []

    def progress(_: ReadingProgress) -> None:
        if not answers:
            answers.append(ours.generate(TEXT, max_new_tokens=3))

    with ours.cache_prefix("A document.\n" * 30, progress=progress):
        assert answers == [ours.generate(TEXT, max_new_tokens=3)]


def test_ctrl_c_reaches_a_streamer_that_does_not_return(ours: LLMPipeline) -> None:
    before, called = used_bytes(ours), threading.Event()

    def never_return(_: str) -> None:
        called.set()
        time.sleep(50)

    interrupt_when(called.is_set)
    with pytest.raises(KeyboardInterrupt):
        ours.generate(TEXT, streamer=never_return, max_new_tokens=6)
    assert used_bytes(ours) == before


def test_two_threads_are_answered_side_by_side(ours: LLMPipeline) -> None:
    wanted = [ours.generate(f"{TEXT} {n}", max_new_tokens=30, ignore_eos=True) for n in range(3)]
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        text = f"{TEXT} {number}"
        answers[number] = ours.generate(text, max_new_tokens=30, ignore_eos=True)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[number] for number in range(3)] == wanted


def test_a_chat_that_answers_is_not_changed_under_its_feet(ours: LLMPipeline) -> None:
    chat = ours.chat()
    chat.ask(TEXT, max_new_tokens=4)
    before = list(chat.messages)
    changes = [chat.clear, chat.take_back, lambda: chat.set_system_message("Be brief.")]
    for change in [*changes, lambda: chat.replace_messages([])]:
        with pytest.raises(ConfigError, match="still answering"):
            chat.ask("Again?", streamer=calling_back([], change), max_new_tokens=4)
        assert chat.messages == before
    chat.close()
