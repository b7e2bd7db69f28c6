"""Messages as they are typed and pasted, with what input() gives played to it."""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterator

import pytest

from ov_kvcrush.cli.chat.keyboard import Keyboard, Typed
from ov_kvcrush.cli.chat.slash_commands import LeaveChat


class Played:
    """A keyboard at which lines, exceptions and seconds of waiting are played."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *events: str | type | float) -> None:
        self.notes: list[str] = []
        self._events: Iterator[str | type | float] = iter([*events, EOFError])
        self._now = 0.0
        monkeypatch.setattr(builtins, "input", self._input)
        monkeypatch.setattr(time, "monotonic", lambda: self._now)
        self._keyboard = Keyboard(self.notes.append)

    def read_all(self) -> list[Typed]:
        """What is read until the user leaves."""
        typed = []
        try:
            while True:
                typed.append(self._keyboard.read())
        except LeaveChat:
            return typed

    @property
    def has_more(self) -> bool:
        """Whether something is left that has not been played; it is played then."""
        return next(self._events, EOFError) is not EOFError

    def _input(self, _: str) -> str:
        event = next(self._events)
        while isinstance(event, float):
            self._now += event
            event = next(self._events)
        if isinstance(event, str):
            return event
        raise event()


def message(text: str) -> Typed:
    return Typed(text, is_command=False)


def test_lines_are_messages_and_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch, "Hello", "/help", "", "one\ntwo")
    assert played.read_all() == [
        message("Hello"),
        Typed("/help", is_command=True),
        message(""),
        message("one\ntwo"),
    ]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (['"""/first', 'second"""'], "/first\nsecond"),
        (['"""', "first", "second", '""" '], "first\nsecond"),
        (['"""first\nsecond"""'], "first\nsecond"),  # from the history, or pasted
        (['"""', 'pasted\nlines"""'], "pasted\nlines"),
        (['  """first"""'], "first"),
        (['""""""'], ""),
        (['"""What it does."""\nx = 1'], '"""What it does."""\nx = 1'),
        (['"""What it does."""\nx = """1"""'], '"""What it does."""\nx = """1"""'),
    ],
)
def test_quotes_around_a_message(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], text: str
) -> None:
    assert Played(monkeypatch, *lines).read_all() == [message(text)]


def test_ctrl_c_drops_what_was_typed_and_says_how_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch, KeyboardInterrupt, "Hello", '"""', KeyboardInterrupt, "Again")
    assert played.read_all() == [message("Hello"), message("Again")]
    assert played.notes == ["Ctrl+C once more, or Ctrl+D, leaves."] * 2


def test_ctrl_d_ends_a_message_of_many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch, '"""', "first", "second", EOFError, "third")
    assert played.read_all() == [message("first\nsecond"), message("third")]


@pytest.mark.parametrize(("seconds", "leaves"), [(0.3, True), (1.5, False)])
def test_a_second_ctrl_c_within_a_second_leaves(
    monkeypatch: pytest.MonkeyPatch, seconds: float, leaves: bool
) -> None:
    played = Played(monkeypatch, KeyboardInterrupt, seconds, KeyboardInterrupt, "Hello")
    assert played.read_all() == ([] if leaves else [message("Hello")])
    assert played.has_more == leaves


def test_what_is_not_text_is_told_and_typed_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class NotTextError(UnicodeDecodeError):
        def __init__(self) -> None:
            super().__init__("utf-8", b"\xff", 0, 1, "invalid start byte")

    assert Played(monkeypatch, NotTextError, "Hello").read_all() == [message("Hello")]
    assert "not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("event", "answer"), [(" talk.json ", "talk.json"), (EOFError, ""), (KeyboardInterrupt, "")]
)
def test_a_question_may_be_left_open(
    monkeypatch: pytest.MonkeyPatch, event: str | type, answer: str
) -> None:
    Played(monkeypatch, event)
    assert Keyboard(lambda _: None).ask("File? ") == answer
