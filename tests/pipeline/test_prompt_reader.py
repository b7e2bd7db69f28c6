"""Histories that were answered are found again: by what they say, and by their owner alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ov_kvcrush import LLMPipeline, Session
from ov_kvcrush.pipeline.prompt_reader import PromptReader
from ov_kvcrush.pipeline.prompts import Prompt

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def pipe(needle_int8_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_int8_dir)


class Asking:
    """Histories asked of a reader of their own.

    Attributes:
        reader: whose histories they are.
        closed: sessions it has dropped.
        num_decoded: histories it has turned into text.
    """

    def __init__(self, pipe: LLMPipeline, max_kept: int = 16) -> None:
        self._model = pipe.loaded_model
        self.closed: list[Session] = []
        self.reader = PromptReader(self._model.reader.encoder, self.closed.append, max_kept)
        self._config = self._model.settings({"max_new_tokens": 2, "ignore_eos": True})

    def read(self, messages: Sequence[dict[str, str]], owner: str = "") -> Prompt:
        rendered = self.reader.encoder.render(messages)
        return self.reader.read_history(rendered, self._config, None, None, owner)

    def answer(self, messages: Sequence[dict[str, str]], owner: str = "") -> Session:
        """The session of ``messages`` once they have been answered."""
        prompt = self.read(messages, owner)
        self._model.run([prompt], self._config)
        assert prompt.session is not None
        return prompt.session


def longer(pipe: LLMPipeline, session: Session) -> list[dict[str, str]]:
    """``HELLO``, what was answered in ``session``, and a question."""
    encoder = pipe.loaded_model.reader.encoder
    num_read = len(encoder.encode(encoder.render(HELLO)))
    answer = pipe.get_tokenizer().decode(session.token_ids[num_read:])
    return [*HELLO, {"role": "assistant", "content": answer}, {"role": "user", "content": "Well?"}]


def test_a_longer_history_goes_on_from_its_session(pipe: LLMPipeline) -> None:
    asking = Asking(pipe)
    session = asking.answer(HELLO)
    prompt = asking.read(longer(pipe, session))
    assert prompt.session is session
    assert list(prompt.ids[: len(session.token_ids)]) == session.token_ids


def test_a_history_is_found_by_its_owner_alone(pipe: LLMPipeline) -> None:
    asking = Asking(pipe)
    session = asking.answer(HELLO, "Ann")
    history = longer(pipe, session)
    assert asking.read(history, "Bob").session is not session
    assert asking.read(history).session is not session
    assert asking.read(history, "Ann").session is session


def test_a_session_that_is_answering_is_not_gone_on_from(pipe: LLMPipeline) -> None:
    asking = Asking(pipe)
    session = asking.answer(HELLO)
    session.busy = True
    assert asking.read(longer(pipe, session)).session is not session
    session.busy = False
    assert asking.read(longer(pipe, session)).session is session


def test_the_oldest_histories_are_dropped(pipe: LLMPipeline) -> None:
    asking = Asking(pipe, max_kept=2)
    sessions = [asking.answer([{"role": "user", "content": f"room {n}"}]) for n in range(3)]
    assert asking.closed == sessions[:1]


def test_a_history_is_decoded_once_after_each_turn(
    pipe: LLMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, decoded = Asking(pipe), list[int]()
    encoder = asking.reader.encoder
    decode = encoder.decode_marked
    first = asking.answer(HELLO)
    history = longer(pipe, first)

    def counted(ids: Sequence[int]) -> str | None:
        decoded.append(len(ids))
        return decode(ids)

    monkeypatch.setattr(encoder, "decode_marked", counted)
    for room in range(3):
        asking.read([{"role": "user", "content": f"room {room}"}])
    assert len(decoded) == 1
    asking.answer(history)
    asking.read([{"role": "user", "content": "room 4"}])
    assert len(decoded) == 3  # once to encode the rest of its second turn, once after it
