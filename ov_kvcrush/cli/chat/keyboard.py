"""What a user types or pastes at the prompt of a chat, a message at a time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ov_kvcrush.cli.chat.slash_commands import LeaveChat, is_command
from ov_kvcrush.cli.output.errors import print_error

try:
    import readline  # input() then edits lines and remembers them
except ImportError:
    readline = None  # type: ignore[assignment]

_QUOTES = '"""'
# Seconds within which a second Ctrl+C leaves.
_TWICE = 1.0
_NEVER = float("-inf")
_MARK_PASTES, _DO_NOT_MARK_PASTES = "\x1b[?2004h", "\x1b[?2004l"


@dataclass(frozen=True)
class Typed:
    """What was typed.

    Attributes:
        text: may be empty, and of several lines.
        is_command: it is for the chat and not for the model.
    """

    text: str
    is_command: bool


class Keyboard:
    """Reads lines, pasted texts of several lines, and lines between quotes.

    Args:
        note: shows a line that is not part of the conversation.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._interrupted = _NEVER
        self._marks_pastes = _can_mark_pastes()
        if readline is not None and self._marks_pastes:
            # What is pasted is one line for the editor then, whatever line breaks are in it. Python
            # turns this off, for programs whose output is captured.
            readline.parse_and_bind("set enable-bracketed-paste on")

    def read(self) -> Typed:
        """The next message or command. Ctrl+C drops what has been typed of it.

        Raises:
            LeaveChat: Ctrl+D, or a second Ctrl+C within a second.
        """
        while True:
            try:
                typed = _read()
                self._interrupted = _NEVER
                return typed
            except EOFError:
                print(file=sys.stderr)
                raise LeaveChat from None
            except KeyboardInterrupt:
                print(file=sys.stderr)
                self._leave_if_twice()
            except UnicodeDecodeError:
                print_error("what was typed is not UTF-8 text")

    @contextmanager
    def left_alone(self) -> Iterator[None]:
        """The time in which nothing is read: what is pasted then is marked for later, too."""
        if not self._marks_pastes:
            yield
            return
        _write(_MARK_PASTES)
        try:
            yield
        finally:
            _write(_DO_NOT_MARK_PASTES)

    def ask(self, question: str) -> str:
        """The answer to ``question``; empty if it is Ctrl+C or Ctrl+D."""
        try:
            return input(question).strip()
        except (EOFError, KeyboardInterrupt, UnicodeDecodeError):
            print(file=sys.stderr)
            return ""

    def _leave_if_twice(self) -> None:
        now = time.monotonic()
        if now - self._interrupted < _TWICE:
            raise LeaveChat
        self._interrupted = now
        self._note("Ctrl+C once more, or Ctrl+D, leaves.")


def _can_mark_pastes() -> bool:
    """Whether the terminal tells what is pasted, and the editor of lines understands it."""
    return (
        readline is not None
        and "libedit" not in (readline.__doc__ or "")
        and sys.stdin.isatty()
        and sys.stdout.isatty()
        and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    )


def _write(sequence: str) -> None:
    with suppress(OSError):  # the terminal was closed
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), sequence.encode())


def _read() -> Typed:
    history = readline.get_current_history_length() if readline is not None else 0
    line = input("\n> ")
    if not line.lstrip().startswith(_QUOTES):
        return Typed(line, is_command(line))
    lines = [line.lstrip().removeprefix(_QUOTES)]
    if _QUOTES in lines[0].rstrip().removesuffix(_QUOTES):  # a program's text, say, not a block
        return Typed(line, is_command=False)
    while not lines[-1].rstrip().endswith(_QUOTES):
        try:
            lines.append(input("... "))
        except EOFError:  # Ctrl+D ends the message, not the chat
            print(file=sys.stderr)
            lines.append(_QUOTES)
    block = "\n".join(lines).rstrip().removesuffix(_QUOTES)
    _remember_as_one(history, f"{_QUOTES}{block}{_QUOTES}")
    return Typed(block.strip("\n"), is_command=False)


def _remember_as_one(history: int, entry: str) -> None:
    """Let ``entry`` stand in place of the lines that came after the first ``history`` ones."""
    if readline is not None:
        for position in reversed(range(history, readline.get_current_history_length())):
            readline.remove_history_item(position)
        readline.add_history(entry)
