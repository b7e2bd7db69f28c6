"""What every subcommand shares: the -v option, and how errors and notes look on stderr."""

from __future__ import annotations

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
    for text in (f"error: {message}", *([hint] if hint else [])):
        print(_fitted(text) if sys.stderr.isatty() else text, file=sys.stderr)


def _fitted(text: str) -> str:
    """``text`` in lines of the terminal's width; a path or a command is never broken."""
    width = shutil.get_terminal_size().columns
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapper.fill(line) for line in text.splitlines())


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print this package's warnings as lines on stderr, without the code that gave them."""
    with warnings.catch_warnings():
        show_others = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any
        ) -> None:
            if issubclass(category, OVKVCrushWarning):
                print(f"note: {message}", file=sys.stderr)
            else:
                show_others(message, category, *args, **kwargs)

        warnings.simplefilter("always", OVKVCrushWarning)
        warnings.showwarning = show
        yield
