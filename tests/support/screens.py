"""A chat's screen without a terminal."""

from __future__ import annotations

from ov_kvcrush.cli.chat.conversation import Conversation
from ov_kvcrush.cli.chat.screen import Answering
from ov_kvcrush.cli.chat.slash_commands import run_command
from ov_kvcrush.pipeline.results import DecodedResults

SETTINGS = {"max_new_tokens": 8}


class FakeScreen:
    """Remembers what commands show."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.notes: list[str] = []
        self.results: list[DecodedResults] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def show_turn(self, answer: Answering) -> None:
        self.results.append(answer(lambda text: None, lambda progress: None))

    def do(self, line: str) -> str:
        run_command(self, line)
        return self.notes[-1] if self.notes else ""

    def ask(self, text: str) -> DecodedResults:
        return self.conversation.ask(text)

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.conversation.chat.messages
