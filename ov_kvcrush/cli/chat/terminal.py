"""A chat at a terminal: reads messages, streams answers, says what each turn cost."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ov_kvcrush.cli.chat.conversation import Conversation
from ov_kvcrush.cli.chat.slash_commands import LeaveChat, run_command
from ov_kvcrush.cli.output.errors import is_verbose, print_error
from ov_kvcrush.cli.output.stats_line import remarks, stats_line
from ov_kvcrush.errors import OVKVCrushError

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.results import DecodedResults
    from ov_kvcrush.pipeline.streaming import Streamer

with contextlib.suppress(ImportError):
    import readline  # noqa: F401  input() then edits lines and remembers them

_QUOTES = '"""'


class ChatTerminal:
    """Answers on stdout; everything else, dim, on stderr.

    Attributes:
        conversation: what is talked about.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self._console = Console(file=sys.stderr, soft_wrap=True)
        self._is_line_open = False

    def run(self) -> None:
        """Answer message after message until the user leaves."""
        self.note("/help shows the commands, Ctrl+C stops an answer, Ctrl+D leaves.")
        while True:
            try:
                line = input("\n> ")
                block = _read_block(line) if line.lstrip().startswith(_QUOTES) else None
            except (EOFError, KeyboardInterrupt):
                self._console.print()
                return
            except UnicodeDecodeError:
                print_error("what was typed is not UTF-8 text")
                continue
            try:
                self._respond(line if block is None else block, is_block=block is not None)
            except LeaveChat:
                return
            except KeyboardInterrupt:
                self._end_line()
                self.note(
                    "Stopped. The broken-off answer is not part of the conversation; "
                    "/regen asks again."
                )
            except OVKVCrushError as error:
                self._end_line()
                if is_verbose():
                    traceback.print_exc()
                print_error(error.message, error.hint)

    def note(self, text: str) -> None:
        """Show a line, or several, that are not part of the conversation."""
        self._console.print(Text(text, style="dim"))

    def show_turn(self, answer: Callable[[Streamer], DecodedResults]) -> None:
        """Show an answer while it is generated, and what it cost."""
        results = answer(self._show_piece)
        self._is_line_open = True  # an answer may be empty, and is a line too
        self._end_line()
        for line in remarks(results, self.conversation.generation_config):
            self.note(line)
        self.note(stats_line(results.metrics[0], self.conversation.pipeline.describe()))

    def _respond(self, text: str, is_block: bool) -> None:
        if text.lstrip().startswith("/") and not is_block:
            run_command(self, text)
        elif text.strip():
            self.show_turn(lambda streamer: self.conversation.ask(text, streamer))

    def _show_piece(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._is_line_open = True

    def _end_line(self) -> None:
        if self._is_line_open:
            self._show_piece("\n")
            self._is_line_open = False


def _read_block(first_line: str) -> str:
    """The text between quotes, the opening ones in ``first_line``; empty if Ctrl+C drops it."""
    lines = [first_line.lstrip().removeprefix(_QUOTES)]
    while not lines[-1].rstrip().endswith(_QUOTES):
        try:
            lines.append(input("... "))
        except KeyboardInterrupt:
            return ""
    return "\n".join(lines).rstrip().removesuffix(_QUOTES).strip("\n")
