"""The line about a prompt that takes long to read."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from ov_kvcrush.cli.output import reading_line
from ov_kvcrush.cli.output.reading_line import ReadingLine, describe_reading
from ov_kvcrush.pipeline.reading import ReadingProgress

HALF = ReadingProgress(num_read=4096, num_tokens=9055, seconds=10.0)
ALL = ReadingProgress(num_read=9055, num_tokens=9055, seconds=20.0)
ERASED = "\r\x1b[2K"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the line."""
    monkeypatch.setattr(reading_line, "_PATIENCE", 0.0)
    monkeypatch.setattr(reading_line, "_BETWEEN_DRAWINGS", 0.001)


def console(width: int = 80, term: str = "xterm", is_terminal: bool = True) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=is_terminal,
        width=width,
        color_system=None,
        _environ={"TERM": term},
    )


def written(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def wait_for(screen: Console, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in written(screen):
        assert time.monotonic() < deadline, written(screen)
        time.sleep(0.001)


def test_tokens_and_their_speed_are_told_in_words() -> None:
    assert describe_reading(HALF) == "4,096 of 9,055 tokens, 410 tokens/s"
    assert describe_reading(ReadingProgress(0, 30, 0.6)) == "0 of 30 tokens"


def test_it_is_drawn_over_itself_and_vanishes_when_all_is_read() -> None:
    screen = console()
    with ReadingLine(screen) as line:
        wait_for(screen, "Reading")
        line.show(HALF)
        wait_for(screen, f"{ERASED}Reading 4,096 of 9,055 tokens, 410 tokens/s")
        line.show(ALL)
        assert written(screen).endswith(ERASED)
    assert written(screen).endswith(ERASED)
    assert "\n" not in written(screen)


def test_it_vanishes_when_reading_fails() -> None:
    screen = console()

    def fail() -> None:
        with ReadingLine(screen) as line:
            line.show(HALF)
            wait_for(screen, "4,096")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert written(screen).endswith(ERASED)


def test_a_prompt_that_is_read_sooner_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_line, "_PATIENCE", 60.0)
    screen = console()
    with ReadingLine(screen) as line:
        line.show(HALF)
        line.show(ALL)
    assert written(screen) == ""


def test_a_narrow_terminal_gets_what_fits_into_one_row() -> None:
    screen = console(width=20)
    with ReadingLine(screen) as line:
        line.show(HALF)
        wait_for(screen, f"{ERASED}Reading 4,096 of 9,")
    assert written(screen).endswith(f"Reading 4,096 of 9,{ERASED}")


def test_what_is_typed_meanwhile_is_not_drawn_over() -> None:
    screen = console()
    with ReadingLine(screen) as line:
        line.show(HALF)
        wait_for(screen, "4,096")
        before = written(screen)
        time.sleep(0.05)
        assert written(screen) == before


def test_a_terminal_that_cannot_erase_gets_a_line_that_stays() -> None:
    screen = console(term="dumb")
    with ReadingLine(screen) as line:
        line.show(HALF)
        wait_for(screen, "\n")
        line.show(ALL)
    assert written(screen).startswith("Reading")
    assert written(screen).endswith("\n")
    assert len(written(screen).splitlines()) == 1
    assert "\r" not in written(screen)


def test_a_pipe_gets_nothing() -> None:
    screen = console(is_terminal=False)
    with ReadingLine(screen) as line:
        line.show(HALF)
        time.sleep(0.05)
    assert written(screen) == ""
