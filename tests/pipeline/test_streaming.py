"""Answers as they come, and their end before they are complete: streamers and Ctrl+C."""

from __future__ import annotations

import os
import signal
import warnings
from typing import Any

import openvino_genai as genai
import pytest

from ov_kvcrush import LLMPipeline
from ov_kvcrush.errors import ConfigError
from tests.support.answers import decoded, encoded
from tests.support.interrupting import interrupt_when
from tests.support.pipelines import TEXT, engine_in, used_bytes


class Collector(genai.StreamerBase):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[int] = []
        self.ended = 0

    def write(self, token: int | list[int]) -> genai.StreamingStatus:
        self.tokens += [token] if isinstance(token, int) else token
        return genai.StreamingStatus.RUNNING

    def end(self) -> None:
        self.ended += 1


def test_pieces_of_text_add_up_to_the_answer(ours: LLMPipeline) -> None:
    pieces: list[str] = []
    answer = ours.generate(TEXT, streamer=pieces.append, ignore_eos=True, max_new_tokens=20)
    assert len(pieces) > 2
    assert "".join(pieces) == answer


def test_a_streamer_object_gets_the_tokens_and_an_end(ours: LLMPipeline) -> None:
    ids = ours.get_tokenizer().encode(TEXT).input_ids
    collector = Collector()
    results = encoded(ours.generate(ids, streamer=collector, max_new_tokens=9, ignore_eos=True))
    assert collector.tokens == results.tokens[0]
    assert collector.ended == 1


STOP, CANCEL = genai.StreamingStatus.STOP, genai.StreamingStatus.CANCEL
REASONS = [
    (True, genai.GenerationFinishReason.STOP),
    (STOP, genai.GenerationFinishReason.STOP),
    (CANCEL, genai.GenerationFinishReason.NONE),
]


class Answering(Collector):
    """Answers its third write and all that follow with ``answer``."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self._answer = answer
        self._num_writes = 0

    def write(self, _: int | list[int]) -> object:
        self._num_writes += 1
        return self._answer if self._num_writes > 2 else genai.StreamingStatus.RUNNING

    def __call__(self, _: str) -> object:
        return self.write(0)


@pytest.mark.parametrize(("answer", "reason"), REASONS)
@pytest.mark.parametrize("is_callable", [True, False])
def test_a_streamer_can_end_the_answer_as_with_openvino_genai(
    ours: LLMPipeline, theirs: genai.LLMPipeline, answer: object, reason: object, is_callable: bool
) -> None:
    def streamer() -> object:
        answering = Answering(answer)
        return (lambda text: answering(text)) if is_callable else answering

    settings: dict[str, Any] = {"ignore_eos": True, "max_new_tokens": 50}
    before = used_bytes(ours)
    mine = decoded(ours.generate([TEXT], streamer=streamer(), **settings))
    assert mine.finish_reasons == [reason]
    assert ours.get_metrics()["last"][0]["num_generated_tokens"] < 10
    assert used_bytes(ours) == before
    if not isinstance(answer, bool) or is_callable:
        wanted = theirs.generate([TEXT], streamer=streamer(), **settings)
        assert wanted.finish_reasons == mine.finish_reasons


def test_a_streamer_that_ends_the_answer_with_its_last_piece_is_obeyed_too(
    ours: LLMPipeline,
) -> None:
    for status, reason in ((CANCEL, "NONE"), (STOP, "LENGTH")):
        streamer = Answering(status)
        results = ours.generate([TEXT], streamer=streamer, ignore_eos=True, max_new_tokens=3)
        assert decoded(results).finish_reasons[0].name == reason


@pytest.mark.parametrize("status", [STOP, CANCEL])
def test_a_cancelled_turn_is_not_part_of_the_conversation_and_a_stopped_one_is(
    ours: LLMPipeline, theirs: genai.LLMPipeline, status: genai.StreamingStatus
) -> None:
    settings: dict[str, Any] = {"ignore_eos": True, "max_new_tokens": 12}

    def talk(pipe: LLMPipeline | genai.LLMPipeline, *, asks_between: bool) -> str:
        """The answer to the last question, after one whose answer a streamer has ended."""
        pipe.start_chat()
        pipe.generate("Why?", **settings)
        if asks_between:
            assert pipe.generate(TEXT, streamer=Answering(status), **settings)
        answer = str(pipe.generate("What did I just say?", **settings))
        pipe.finish_chat()
        return answer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # openvino_genai's start_chat is deprecated
        without = talk(ours, asks_between=False)
        for pipe in (ours, theirs):
            assert (talk(pipe, asks_between=True) == without) == (status == CANCEL)


def test_a_chat_forgets_a_cancelled_question_and_goes_on_from_its_cache(ours: LLMPipeline) -> None:
    chat = ours.chat()
    chat.ask("Why?", max_new_tokens=8)
    before = list(chat.messages)
    cancelled = chat.ask(TEXT, streamer=lambda _: CANCEL, ignore_eos=True)
    assert cancelled.texts[0]
    assert chat.messages == before
    assert chat.ask("And then?", max_new_tokens=4).metrics[0].num_reused_tokens >= 10
    stopped = chat.ask(TEXT, streamer=lambda _: STOP, ignore_eos=True)
    assert chat.messages[-1] == {"role": "assistant", "content": stopped.texts[0]}
    chat.close()


def test_a_raising_streamer_raises_its_own_error_and_leaves_nothing(ours: LLMPipeline) -> None:
    def faulty(text: str) -> None:
        raise ZeroDivisionError("mine")

    before = used_bytes(ours)
    with pytest.raises(ZeroDivisionError, match="mine"):
        ours.generate(TEXT, streamer=faulty)
    assert used_bytes(ours) == before
    assert isinstance(ours.generate(TEXT, max_new_tokens=3), str)


def test_a_streamer_that_raises_in_a_chat_leaves_the_conversation_as_it_was(
    ours: LLMPipeline,
) -> None:
    chat = ours.chat()
    chat.ask(TEXT, max_new_tokens=4)
    before = list(chat.messages)
    known: dict[str, bool] = {}
    with pytest.raises(KeyError):
        chat.ask("Again?", streamer=lambda text: known[text])
    assert chat.messages == before
    assert chat.ask("Again?", max_new_tokens=4).metrics[0].num_reused_tokens > 0
    chat.close()


def test_one_streamer_cannot_show_several_answers(ours: LLMPipeline) -> None:
    with pytest.raises(ConfigError, match="shows one sequence"):
        ours.generate([TEXT, TEXT], streamer=print)
    with pytest.raises(ConfigError, match="not a int"):
        ours.generate(TEXT, streamer=3)


def test_ctrl_c_ends_generate_and_leaves_nothing(ours: LLMPipeline) -> None:
    handler, before = signal.getsignal(signal.SIGINT), used_bytes(ours)
    interrupt_when(engine_in(ours).has_unfinished)
    with pytest.raises(KeyboardInterrupt):
        ours.generate(TEXT, ignore_eos=True, max_new_tokens=100_000)
    assert signal.getsignal(signal.SIGINT) == handler
    assert used_bytes(ours) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("raises", [True, False], ids=["raises", "goes on"])
def test_a_signal_is_handled_when_all_has_been_given_back(
    ours: LLMPipeline, number: signal.Signals, raises: bool
) -> None:
    engine, at_work = engine_in(ours), list[bool]()

    class Ended(BaseException):
        pass

    def handle(*_: object) -> None:
        at_work.append(engine.has_unfinished())
        if raises:
            raise Ended

    def generate() -> object:
        def send(_: str) -> None:
            os.kill(os.getpid(), number)

        return ours.generate(TEXT, streamer=send, ignore_eos=True, max_new_tokens=500)

    before, previous = used_bytes(ours), signal.signal(number, handle)
    try:
        if raises:
            with pytest.raises(Ended):
                generate()
        else:  # the answer as far as it went
            assert generate()
        assert signal.getsignal(number) == handle
    finally:
        signal.signal(number, previous)
    assert at_work == [False]
    assert used_bytes(ours) == before
