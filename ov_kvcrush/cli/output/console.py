"""What commands print on stdout beside answers: tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

# A table in a file or a pipe is as wide as it has to be.
_WIDE = 1000


def table_console() -> Console:
    """Stdout; not bound to 80 columns where it is not a terminal."""
    console = Console(file=sys.stdout, highlight=False)
    return (
        console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=_WIDE)
    )


def print_rows(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values below ``title`` on stdout: a table on a terminal, else plain lines."""
    console = table_console()
    if not console.is_terminal:
        print(title)
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"  {name:<{width}}  {value}")
        return
    table = Table(title=escape(title), title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
