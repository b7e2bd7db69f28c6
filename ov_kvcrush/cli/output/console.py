"""Where tables are printed."""

from __future__ import annotations

import sys

from rich.console import Console

# A table in a file or a pipe is as wide as it has to be.
_WIDE = 1000


def table_console() -> Console:
    """Stdout; not bound to 80 columns where it is not a terminal."""
    console = Console(file=sys.stdout, highlight=False)
    return (
        console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=_WIDE)
    )
