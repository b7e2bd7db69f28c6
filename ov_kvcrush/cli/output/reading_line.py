"""A line that says how far a long prompt has been read, and vanishes when the answer begins."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from ov_kvcrush.pipeline.reading import ReadingProgress

# Seconds. What is read sooner than that needs no line.
_PATIENCE = 0.5
_BETWEEN_DRAWINGS = 0.2

_EMPTY_LINE = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))


def describe_reading(progress: ReadingProgress) -> str:
    """Tokens read, of how many, and how fast."""
    text = f"{progress.num_read:,} of {progress.num_tokens:,} tokens"
    return f"{text}, {progress.tokens_per_second:,.0f} tokens/s" if progress.num_read else text


class ReadingLine:
    """The line of one answer, for the time of a ``with``; nothing where there is no terminal.

    A thread draws it: the first token of a long prompt is many seconds away, and the terminal may
    change its size meanwhile. The cursor is never hidden, for a shell would miss it when the
    process is stopped or killed.

    Args:
        console: where it is drawn.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._text = "Reading"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw_until_over, daemon=True)

    def __enter__(self) -> ReadingLine:
        if self._console.is_terminal:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def show(self, progress: ReadingProgress) -> None:
        """So much has been read; all of it ends the line."""
        if progress.num_read < progress.num_tokens:
            self._text = f"Reading {describe_reading(progress)}"
        else:
            self.end()

    def end(self) -> None:
        """Remove the line, for the answer or an error takes its place."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _draw_until_over(self) -> None:
        if self._over.wait(_PATIENCE):
            return
        if self._console.is_dumb_terminal:  # it cannot draw over what is there
            self._console.print(self._text)
            return
        drawn = ""
        while not self._over.is_set():
            if drawn != self._text:  # else the keys that are pressed meanwhile, ^C too, stay there
                drawn = self._text
                self._draw(drawn)
            self._over.wait(_BETWEEN_DRAWINGS)
        self._draw("")

    def _draw(self, text: str) -> None:
        self._console.control(_EMPTY_LINE)
        # The last column stays free: a terminal that has filled it may be on the next line.
        self._console.print(Text(text[: max(0, self._console.width - 1)], style="dim"), end="")
