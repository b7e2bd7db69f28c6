"""What every subcommand shares: the -v option, and how errors and notes look on stderr."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from ov_kvcrush.errors import OVKVCrushWarning

_verbose = False


def set_verbose(value: bool) -> bool:
    """Remember whether this run shows tracebacks and the libraries' own output."""
    global _verbose
    _verbose = value
    return value


def is_verbose() -> bool:
    """Whether ``-v`` was given."""
    return _verbose


Verbose = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        callback=set_verbose,
        is_eager=True,
        help="Show the libraries' own output, and tracebacks.",
    ),
]


def print_error(message: str, hint: str = "") -> None:
    """Print ``error: message`` and the hint below it on stderr, between words if a line is full."""
    message = message.replace("\n", "\\n")  # of a path, for instance
    for text in (f"error: {message}", *([hint] if hint else [])):
        print(_fitted(text) if sys.stderr.isatty() else text, file=sys.stderr)


def _fitted(text: str) -> str:
    """``text`` in lines of the terminal's width; a path or a command is never broken."""
    width = shutil.get_terminal_size().columns
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapper.fill(line) for line in text.splitlines())


class _NoteHandler(logging.Handler):
    """Prints what is logged on what stderr is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        _print_note(record.getMessage())


def _print_note(text: object) -> None:
    print(f"note: {text}", file=sys.stderr)


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Print this package's warnings, each once, and what it logs, as lines on stderr."""
    said = set[str]()
    log, handler = logging.getLogger("ov_kvcrush"), _NoteHandler()
    propagated, log.propagate = log.propagate, False
    log.addHandler(handler)
    with warnings.catch_warnings():
        show_others = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any
        ) -> None:
            if not issubclass(category, OVKVCrushWarning):
                show_others(message, category, *args, **kwargs)
            elif str(message) not in said:
                said.add(str(message))
                _print_note(message)

        warnings.simplefilter("always", OVKVCrushWarning)
        warnings.showwarning = show
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.propagate = propagated
