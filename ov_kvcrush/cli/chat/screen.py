"""What a chat's commands see of the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ov_kvcrush.cli.chat.conversation import Conversation

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.reading import OnReading
    from ov_kvcrush.pipeline.results import DecodedResults
    from ov_kvcrush.pipeline.streaming import Streamer

Answering: TypeAlias = "Callable[[Streamer, OnReading], DecodedResults]"
"""Generates an answer, and tells as it goes on."""


class Screen(Protocol):
    """Where commands show what they did."""

    conversation: Conversation

    def note(self, text: str) -> None:
        """Show a line, or several, that are not part of the conversation."""

    def show_turn(self, answer: Answering) -> None:
        """Show how far its prompt is read, an answer while it is generated, and what it cost."""
