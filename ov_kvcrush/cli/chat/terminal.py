"""A chat at a terminal: reads messages, streams answers, says what each turn cost."""

from __future__ import annotations

import sys
import traceback

from rich.console import Console
from rich.text import Text

from ov_kvcrush.cli.chat.conversation import Conversation
from ov_kvcrush.cli.chat.file_commands import name_attached
from ov_kvcrush.cli.chat.keyboard import Keyboard, Typed
from ov_kvcrush.cli.chat.screen import Answering
from ov_kvcrush.cli.chat.slash_commands import LeaveChat, run_command
from ov_kvcrush.cli.output.errors import is_verbose, print_error
from ov_kvcrush.cli.output.reading_line import ReadingLine
from ov_kvcrush.cli.output.stats_line import remarks, stats_line
from ov_kvcrush.errors import OVKVCrushError


class ChatTerminal:
    """Answers on stdout; everything else, dim, on stderr.

    Attributes:
        conversation: what is talked about.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self._console = Console(file=sys.stderr, soft_wrap=True)
        self._is_line_open = False
        self._is_answering = False

    def run(self, offers_saving: bool = True) -> None:
        """Answer message after message until the user leaves.

        Args:
            offers_saving: what has been said is not kept otherwise.
        """
        self.note("/help shows the commands, Ctrl+C stops an answer, Ctrl+D leaves.")
        keyboard = Keyboard(self.note)
        while True:
            try:
                typed = keyboard.read()
                with keyboard.left_alone():
                    self._respond(typed)
            except LeaveChat:
                break
            except KeyboardInterrupt:
                self._show_interrupted()
            except OVKVCrushError as error:
                self._show_error(error)
                self._note_attached()
        if offers_saving:
            self._offer_saving(keyboard)

    def note(self, text: str) -> None:
        """Show a line, or several, that are not part of the conversation."""
        self._console.print(Text(text, style="dim"))

    def show_turn(self, answer: Answering) -> None:
        """Show how far its prompt is read, an answer while it is generated, and what it cost."""
        self._is_answering = True
        with ReadingLine(self._console) as reading:

            def show_piece(text: str) -> None:
                reading.end()
                self._show_piece(text)

            results = answer(show_piece, reading.show)
        self._is_answering = False
        self._is_line_open = True  # an answer may be empty, and is a line too
        self._end_line()
        description = self.conversation.pipeline.describe()
        config = self.conversation.generation_config
        for line in remarks(results, config, description.context_length):
            self.note(line)
        self.note(stats_line(results.metrics[0], description))

    def _respond(self, typed: Typed) -> None:
        self._is_answering = False
        if typed.is_command:
            run_command(self, typed.text)
        elif typed.text.strip():
            message = typed.text.strip("\n")
            self.show_turn(lambda *shown: self.conversation.ask(message, *shown))

    def _show_interrupted(self) -> None:
        self._is_line_open = True  # ^C stands in it
        self._end_line()
        dropped = " The broken-off answer is not part of the conversation; /regen asks again."
        self.note("Stopped." + (dropped if self._is_answering else ""))
        self._note_attached()

    def _note_attached(self) -> None:
        if attached := name_attached(self.conversation):
            self.note(f"Attached to your next message: {attached}. /read alone drops it.")

    def _offer_saving(self, keyboard: Keyboard) -> None:
        while self.conversation.has_unsaved_turns:
            name = keyboard.ask("Name a file to save the conversation, or press Enter: ")
            if not name:
                return
            try:
                run_command(self, f"/save {name}")
            except OVKVCrushError as error:
                self._show_error(error)

    def _show_error(self, error: OVKVCrushError) -> None:
        self._end_line()
        if is_verbose():
            traceback.print_exc()
        print_error(error.message, error.hint)

    def _show_piece(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._is_line_open = True

    def _end_line(self) -> None:
        if self._is_line_open:
            self._show_piece("\n")
            self._is_line_open = False
