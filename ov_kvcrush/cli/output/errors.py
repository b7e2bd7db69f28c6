"""What every subcommand shares: the -v option, and how an error looks on stderr."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

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
    """Print ``error: message`` and the hint below it on stderr."""
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(hint, file=sys.stderr)
