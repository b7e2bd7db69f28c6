"""The steps of a long command, on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from ov_kvcrush.cli.output.reading_line import describe_reading
from ov_kvcrush.progress import TimeLeft, describe_seconds

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.reading import ReadingProgress

# How often a long step tells how far it is where lines stay.
_SECONDS_BETWEEN_LINES = 15.0


class StepProgress:
    """Shows numbered steps: with a bar, a clock and the time left, or as plain lines elsewhere.

    ``preparation`` is shown on a terminal until the first step begins. ``plain`` asks for lines on
    a terminal too, where other output comes between them.
    """

    def __init__(self, preparation: str, plain: bool = False) -> None:
        self._preparation = preparation
        self._plain = plain
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._time_left = TimeLeft()
        self._said = time.monotonic()

    def __enter__(self) -> StepProgress:
        """Begin to draw."""
        if self._console.is_terminal and not self._plain:
            self._live = Progress(
                SpinnerColumn(finished_text="[green]✓"),
                TextColumn("{task.description}"),
                BarColumn(20),
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}"),
                console=self._console,
            )
            self._live.start()
            self._task = self._live.add_task(self._preparation, total=None, detail="")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop drawing; the last step is done if nothing was raised."""
        if kind is None:
            self._finish_step()
        if self._live:
            self._live.stop()

    def step(self, number: int, total: int, title: str) -> None:
        """Step ``number`` of ``total`` begins."""
        text = f"[{number}/{total}] {title}"
        self._finish_step()
        self._time_left = TimeLeft()
        self._said = time.monotonic()
        if self._live:
            self._task = self._live.add_task(escape(text), total=None, detail="")
        else:
            self._console.print(text, markup=False)

    def advance(self, share: float) -> None:
        """So much of the step is done, 0 to 1."""
        left = self._time_left.at(share)
        told = f"{100 * share:.0f} %"
        if left is not None:
            told += f" · {describe_seconds(left)} left"
        if self._live and self._task is not None:
            detail = told if share < 1 else ""
            self._live.update(self._task, total=1, completed=share, detail=detail)
        elif 0 < share < 1 and time.monotonic() - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self._console.print(f"      {told}", markup=False)

    def read(self, progress: ReadingProgress) -> None:
        """The step reads a prompt, and so much of it has been read."""
        if self._live and self._task is not None:
            detail = describe_reading(progress)
            self._live.update(self._task, total=1, completed=progress.share, detail=detail)

    def note(self, text: str) -> None:
        """Print one line among the steps."""
        self._console.print(f"note: {text}", markup=False)

    def _finish_step(self) -> None:
        if self._live and self._task is not None:
            if self._live.tasks[-1].completed < 1:  # what is left is not told any more
                self._live.update(self._task, detail="")
            self._live.update(self._task, total=1, completed=1)
